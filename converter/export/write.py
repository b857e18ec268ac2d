"""Writes the artifacts of a variant: portable and fast .pt2, .onnx, weights, and what they are checked on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import fx
from torch.export import ExportedProgram

from aslconvert.converter.export.atomic import write_file, write_files
from aslconvert.converter.export.checks import describe, make_cases, tolerance
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.reexport import reexport_like
from aslconvert.converter.ir.quiet import quiet
from aslconvert.converter.passes.fast import fast_form
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.lower import lower

MANIFEST = "artifacts.json"
CHECK = "check.safetensors"
FILES = {"portable": "portable.pt2", "fast": "fast.pt2", "onnx": "model.onnx", "weights": "weights.safetensors"}


def write_program(program: ExportedProgram, path: str | Path) -> None:
    """Save one exported program; the file appears whole or not at all.

    Raises InfrastructureError("disk_full") or ("unwritable").
    """
    write_file(Path(path), program_bytes(program))


def program_bytes(program: ExportedProgram) -> bytes:
    """The ``.pt2`` file of a program."""
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
    kinds: Sequence[str] = tuple(FILES),
) -> list[dict[str, Any]]:
    """Write the variant ``gm`` (as ``replace_sites`` gives it, healed or not) of ``original`` into ``folder``.

    ``inputs`` are positional inputs to check the artifacts on, best real ones; by default the example's. Gives
    [{path, kind, sha256, bytes}] without judging them: ``verify.verify_dir`` does that.
    Raises InfrastructureError("disk_full") with nothing of the new files left behind.
    """
    folded = fold_batch_norm(gm)
    portable = reexport_like(lower(folded), original)
    cases = make_cases(gm, portable, inputs)
    check, index = describe(cases)
    files: dict[str, bytes] = {}
    if "portable" in kinds:
        files[FILES["portable"]] = program_bytes(portable)
    if "fast" in kinds:
        files[FILES["fast"]] = program_bytes(reexport_like(fast_form(folded), original))
    if "onnx" in kinds:
        files[FILES["onnx"]] = onnx_bytes(portable)
    if "weights" in kinds:
        # Cloned, since the format has no shared memory: tied tensors are stored under each of their names.
        files[FILES["weights"]] = save({k: v.detach().contiguous().clone() for k, v in gm.state_dict().items()})
    files[CHECK] = check
    records = [
        {
            "path": name,
            "kind": kind,
            "sha256": hashlib.sha256(files[name]).hexdigest(),
            "bytes": len(files[name]),
            "tolerance": 0.0 if kind == "weights" else tolerance(kind, cases),
        }
        for kind, name in FILES.items()
        if name in files
    ]
    manifest = {
        "version": 1,
        "check": {"path": CHECK, "sha256": hashlib.sha256(check).hexdigest(), "cases": index},
        "inputs": list(portable.graph_signature.user_inputs),
        "artifacts": records,
    }
    # Last, so that a folder with a manifest has everything the manifest names.
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    write_files(Path(folder), files)
    return [{key: record[key] for key in ("path", "kind", "sha256", "bytes")} for record in records]
