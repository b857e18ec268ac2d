"""Writes the artifacts of a variant and what they are checked on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aslconvert.converter.errors import AslconvertError, InternalError
from aslconvert.converter.export.atomic import write_file, write_files
from aslconvert.converter.export.checks import describe, make_cases, tolerance, widened
from aslconvert.converter.export.code import model_code, named_tensors
from aslconvert.converter.export.compiled import compiled_bytes
from aslconvert.converter.export.int8 import int8_bytes, open_session, run_onnx
from aslconvert.converter.export.kinds import KINDS, complete
from aslconvert.converter.export.onnx import onnx_bytes, recast
from aslconvert.converter.ir.graph import copy_graph
from aslconvert.converter.ir.quiet import quiet
from aslconvert.converter.options import DEFAULT_ARTIFACTS
from aslconvert.converter.passes.stages import DEPLOYED, FAST, FOLDED, INT16, PACKED, Stages

MANIFEST = "artifacts.json"
CHECK = "check.safetensors"

VOLATILE = ("stack_trace", "from_node")
"""What torch notes at each node and would save: paths of this machine, and numbers that differ from run to run."""


def write_program(program: ExportedProgram, path: str | Path) -> None:
    """Save one exported program; the file appears whole or not at all.

    Raises InfrastructureError("disk_full") or ("unwritable").
    """
    write_file(Path(path), program_bytes(program))


def program_bytes(program: ExportedProgram) -> bytes:
    """The ``.pt2`` file of a program; the same program gives the same bytes, in another process too."""
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                for key in VOLATILE:
                    node.meta.pop(key, None)
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def write_artifacts(
    folder: str | Path,
    gm: fx.GraphModule,
    original: ExportedProgram,
    *,
    inputs: tuple[Any, ...] | None = None,
    kinds: Sequence[str] = DEFAULT_ARTIFACTS,
    calibration: Sequence[tuple[Any, ...]] = (),
    stages: Stages | None = None,
    packed: bool = False,
    int8: bytes | None = None,
) -> list[dict[str, Any]]:
    """Write the variant ``gm`` (as ``replace_sites`` gives it, healed or not) of ``original`` into ``folder``.

    Args:
        inputs: positional inputs to check the artifacts on, best real ones; by default the example's.
        kinds: names of `kinds.KINDS`; what one of them needs is written too.
        calibration: batches of flat inputs that the int8 form is calibrated on; by default the checked ones.
        stages: runs the passes, checks them and keeps what they did.
        packed: whether the fast form is the one in channels_last.
        int8: the quantised form, where it was made before; by default it is quantised plainly.

    Returns:
        [{path, kind, sha256, bytes, notes}] without judging them: ``verify.verify_dir`` does that.

    Raises:
        InfrastructureError: ``disk_full`` or ``unwritable``, with nothing of the new files left behind.
        InternalError: a pass broke the graph. An artifact that was not asked for by name and cannot be made here is
            left out with its reason under ``left_out`` in the manifest.
    """
    made = _Made(
        gm, original, inputs, calibration, stages or Stages(original, inputs=inputs), PACKED if packed else FAST, int8
    )
    files: dict[str, bytes] = {}
    left_out: dict[str, str] = {}
    for kind in complete(tuple(kinds)):
        try:
            files[KINDS[kind].file] = made.build(kind)
        except AslconvertError as error:
            if error.code not in ("no_code", "onnx_failed", "int8_failed", "no_aoti", "no_int16"):
                raise
            left_out[kind] = error.message
    check, index = describe(made.cases)
    files[CHECK] = check
    records = [made.record(kind, files[KINDS[kind].file]) for kind in KINDS if KINDS[kind].file in files]
    manifest = {
        "version": 1,
        "check": {"path": CHECK, "sha256": hashlib.sha256(check).hexdigest(), "cases": index},
        "inputs": list(made.portable.graph_signature.user_inputs),
        "artifacts": records,
        "left_out": left_out,
    }
    for each in KINDS.values():
        # An earlier run's, which nothing would tell from this one's.
        if each.file not in files:
            (Path(folder) / each.file).unlink(missing_ok=True)
    # Last, so that a folder with a manifest has everything the manifest names.
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    write_files(Path(folder), files)
    return [{key: record[key] for key in ("path", "kind", "sha256", "bytes", "notes")} for record in records]


def left_out(folder: str | Path) -> dict[str, str]:
    """The kinds that were asked for and could not be made, with the reason."""
    reasons: dict[str, str] = json.loads((Path(folder) / MANIFEST).read_text()).get("left_out", {})
    return reasons


class _Made:
    """Builds each kind's bytes from one variant, sharing what several need."""

    def __init__(
        self,
        gm: fx.GraphModule,
        original: ExportedProgram,
        inputs: tuple[Any, ...] | None,
        calibration: Sequence[tuple[Any, ...]],
        stages: Stages,
        fast: tuple[str, ...],
        int8: bytes | None = None,
    ) -> None:
        self._gm = gm
        self._fast = fast
        self._int8 = int8
        self._stages = stages
        self._calibration = calibration
        self._folded = stages.run(FOLDED, gm)
        self.portable = stages.exported(stages.run(DEPLOYED, self._folded))
        self.cases = make_cases(gm, self.portable, inputs)
        self._names = list(self.portable.graph_signature.user_inputs)
        self._onnx: bytes | None = None
        # By kind that rounds: the greatest difference to the variant on the cases, and the relative one.
        self._lost: dict[str, tuple[float, float]] = {}

    def build(self, kind: str) -> bytes:
        builders: dict[str, Callable[[], bytes]] = {
            "portable": lambda: program_bytes(self.portable),
            "fast": lambda: program_bytes(self._stages.exported(self._stages.run(self._fast, self._folded))),
            "int16": self._as_int16,
            "trainable": self._trainable,
            "onnx": self._as_onnx,
            "int8": self._as_int8,
            "weights": self._weights,
            "code": lambda: model_code(self._gm, weights=KINDS["weights"].file).encode(),
            "aoti": lambda: compiled_bytes(self.portable),
        }
        return builders[kind]()

    def record(self, kind: str, data: bytes) -> dict[str, Any]:
        notes = []
        allowed = 0.0 if kind == "weights" else tolerance(kind, self.cases)
        if allowed and (factor := widened(self.cases)) > 1:
            notes.append(f"the variant magnifies what float32 rounds off: {factor:.1f} times the usual is allowed")
        if kind in ("onnx", "int8") and (why := recast(self.portable)):
            notes.append(why)
        if kind in self._lost:
            worst, relative = self._lost[kind]
            # How much rounding loses is a finding; that the file does the same after a reload is what is verified.
            allowed += 2 * worst
            notes.append(f"relative L2 distance to the variant on the check inputs: {relative:.2g}")
        return {
            "path": KINDS[kind].file,
            "kind": kind,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "tolerance": allowed,
            "notes": notes,
        }

    def _trainable(self) -> bytes:
        gm = copy_graph(self._gm)
        for parameter in gm.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return program_bytes(self._stages.exported(gm))

    def _as_onnx(self) -> bytes:
        if self._onnx is None:
            self._onnx = onnx_bytes(self.portable)
        return self._onnx

    def _as_int8(self) -> bytes:
        data = self._int8
        if data is None:
            batches = [tuple(pytree.tree_leaves(batch)) for batch in self._calibration]
            data = int8_bytes(self._as_onnx(), batches or [case.inputs for case in self.cases])
        session = open_session(data)
        self._lost["int8"] = self._distance(lambda inputs: run_onnx(session, inputs, self._names))
        return data

    def _as_int16(self) -> bytes:
        gm = self._stages.run(INT16, self._folded)
        if all(node.target is not torch.ops.asl.shift_pointwise_int16.default for node in gm.graph.nodes):
            raise InternalError("no_int16", "No call of it is one that the 16-bit kernel takes.")
        program = self._stages.exported(gm)
        module = program.module()

        def run(inputs: Sequence[Any]) -> list[Tensor]:
            args, kwargs = pytree.tree_unflatten(list(inputs), program.call_spec.in_spec)
            with torch.no_grad():
                return [leaf for leaf in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(leaf, Tensor)]

        self._lost["int16"] = self._distance(run)
        return program_bytes(program)

    def _distance(self, run: Callable[[Sequence[Any]], Sequence[Tensor]]) -> tuple[float, float]:
        """The greatest difference to the variant on the cases, and the relative L2 distance."""
        pairs = [
            (given.double(), wanted.double())
            for case in self.cases
            for given, wanted in zip(run(case.inputs), case.outputs, strict=True)
        ]
        worst = max(float((a - b).abs().max()) for a, b in pairs)
        total = sum(float((a - b).square().sum()) for a, b in pairs)
        return worst, (total / max(sum(float(b.square().sum()) for _, b in pairs), 1e-30)) ** 0.5

    def _weights(self) -> bytes:
        # Cloned, since the format has no shared memory: tied tensors are stored under each of their names.
        return save({k: v.detach().contiguous().clone() for k, v in named_tensors(self._gm).items()})
