"""Named passes, each followed by a check of the graph: well formed, shapes by re-export, numerics where it keeps them.

A ``Stages`` belongs to one original. It runs passes by name, keeps one line on what each did, and writes the graphs
before and after it where a folder is given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aslconvert.converter.errors import InternalError
from aslconvert.converter.export.atomic import write_files
from aslconvert.converter.export.reexport import Reexport
from aslconvert.converter.ir.dims import dynamic_axes, example_of
from aslconvert.converter.ir.precision import allowance, run_in_double
from aslconvert.converter.passes.arrange_sources import arrange_sources
from aslconvert.converter.passes.channels_last import channels_last
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.fuse import fuse
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.mix_as_shift import mix_as_shift, mix_stride_one
from aslconvert.converter.passes.pool_as_maxima import pool_as_maxima
from aslconvert.converter.passes.prepare import prepare
from aslconvert.converter.passes.sixteen_bits import sixteen_bits
from aslconvert.converter.passes.sum_shifts import sum_shifts
from aslconvert.converter.passes.verify import verify

PASSES: dict[str, Callable[[fx.GraphModule], fx.GraphModule]] = {
    "prepare": prepare,
    "fold_batch_norm": fold_batch_norm,
    "arrange_sources": arrange_sources,
    "lower": lower,
    "fuse": fuse,
    "sum_shifts": sum_shifts,
    "pool_as_maxima": pool_as_maxima,
    "sixteen_bits": sixteen_bits,
    "mix_as_shift": mix_as_shift,
    "mix_stride_one": mix_stride_one,
    "channels_last": channels_last,
}
"""Those that preserve the numbers, but for ``ROUNDING``.

``replace_sites`` with fitted blocks does not, and is recorded with ``record``."""

FOLDED = ("fold_batch_norm",)
"""What both forms of a variant start with."""

DEPLOYED = ("arrange_sources", "lower")
"""From there to standard operators."""

FAST = ("fuse", "sum_shifts", "pool_as_maxima")
"""From there to the fused operator, as ``fast_form`` does."""

PACKED = ("mix_as_shift", "fuse", "sum_shifts", "channels_last")
"""The same in channels_last, as ``packed_form`` does."""

INT16 = ("mix_stride_one", *FAST, "sixteen_bits")
"""From there to 16 bits, as ``int16_form`` does."""

ROUNDING = ("sixteen_bits",)
"""Passes that round on purpose: what that costs is a finding, and no defect."""

PRESERVED = 1e-4
"""Largest difference relative to the largest output that a pass may make: float32 sums in another order."""

PRESERVED_LOW = 3e-2
"""The same in bfloat16 and float16."""

SUMMARY = "passes.txt"
NUMBERED = re.compile(r"\d\d-[a-z_]+\.(before|after)\.txt")


@dataclass(frozen=True)
class Step:
    """What one pass did: its line, and the greatest difference of the outputs relative to the largest one."""

    name: str
    line: str
    difference: float | None
    changed: bool


class Stages:
    """Runs and checks the passes over the graphs of one original.

    Args:
        original: whose sizes, dynamic ones too, every graph must keep.
        inputs: positional inputs that numerics are compared on; the program's example by default.
        folder: where each pass's graphs and a line on it are written; None writes nothing.
    """

    def __init__(
        self, original: ExportedProgram, *, inputs: Sequence[Any] | None = None, folder: Path | None = None
    ) -> None:
        args, kwargs = example_of(original)
        self._inputs = (tuple(inputs) if inputs is not None else args, kwargs)
        self._reexport = Reexport(original)
        self._signature = _signature(original)
        self._folder = folder
        self._exported: tuple[fx.GraphModule, ExportedProgram] | None = None
        self._outputs: tuple[fx.GraphModule, list[Tensor]] | None = None
        self.steps: list[Step] = []
        if folder is not None and folder.is_dir():
            # Of an earlier run; whatever else lies there is not ours.
            for path in folder.iterdir():
                if NUMBERED.fullmatch(path.name):
                    path.unlink()

    def run(self, names: Sequence[str], gm: fx.GraphModule) -> fx.GraphModule:
        """``gm`` after the named passes. Raises InternalError naming the pass that broke the graph."""
        for name in names:
            gm = self.record(name, gm, PASSES[name](gm), preserves=name not in ROUNDING)
        return gm

    def record(
        self, name: str, before: fx.GraphModule, after: fx.GraphModule, *, preserves: bool = True
    ) -> fx.GraphModule:
        """Check and write down a pass that was run already; gives ``after``, or ``before`` where they are the same.

        Raises:
            InternalError: ``bad_graph``, ``pass_changed_shapes`` or ``pass_changed_outputs``.
        """
        verify(after)
        texts = graph_text(before), graph_text(after)
        changed = texts[0] != texts[1] or not _same_tensors(before, after)
        difference = self._check(name, before, after, preserves=preserves) if changed else 0.0
        line = _line(name, before, after, difference, changed=changed, preserves=preserves)
        self.steps.append(Step(name, line, difference, changed))
        if self._folder is not None:
            number = f"{len(self.steps):02d}-{name}"
            files = {f"{number}.before.txt": texts[0], f"{number}.after.txt": texts[1]}
            files[SUMMARY] = "".join(f"{index:02d} {step.line}\n" for index, step in enumerate(self.steps, start=1))
            write_files(self._folder, {key: text.encode() for key, text in files.items()})
        return after if changed else before

    def exported(self, gm: fx.GraphModule) -> ExportedProgram:
        """``gm`` as a program with the original's sizes; the last one is kept."""
        if self._exported is None or self._exported[0] is not gm:
            self._exported = gm, self._reexport(gm)
        return self._exported[1]

    def _check(self, name: str, before: fx.GraphModule, after: fx.GraphModule, *, preserves: bool) -> float:
        expected = self._run(before)
        signature = _signature(self.exported(after))
        if signature != self._signature:
            raise InternalError(
                "pass_changed_shapes", f"The pass {name} changed the model's sizes: {self._signature} to {signature}."
            )
        given = self._run(after)
        difference = _difference(given, expected)
        low = any(output.dtype in (torch.bfloat16, torch.float16) for output in expected)
        allowed = PRESERVED_LOW if low else PRESERVED
        if preserves and not low and allowed < difference < float("inf"):
            exact = run_in_double(before, *self._inputs)
            if exact is not None:
                own = _difference([y.double() if y.is_floating_point() else y for y in expected], exact)
                allowed = allowance(allowed, own)
        if preserves and not difference <= allowed:
            raise InternalError(
                "pass_changed_outputs",
                f"The pass {name} changed the outputs by {difference:.3g} of the largest one; {allowed:g} is allowed.",
            )
        return difference

    def _run(self, gm: fx.GraphModule) -> list[Tensor]:
        if self._outputs is None or self._outputs[0] is not gm:
            args, kwargs = self._inputs
            with torch.no_grad():
                leaves = pytree.tree_leaves(gm(*args, **kwargs))
            self._outputs = gm, [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return self._outputs[1]


def graph_text(gm: fx.GraphModule) -> str:
    """The graph, one call a line, with the shapes it knows."""
    lines = []
    for node in gm.graph.nodes:
        shape = node.meta.get("shape")
        known = "" if shape is None else f" [{', '.join(map(str, shape))}]"
        kwargs = [f"{key}={value}" for key, value in node.kwargs.items()]
        if node.op == "get_attr":
            value = _tensor(gm, str(node.target))
            known = "" if value is None else f" [{', '.join(map(str, value.shape))}]"
            lines.append(f"{node.name}{known} = self.{node.target}")
        elif node.op == "placeholder":
            lines.append(f"{node.name}{known} = input")
        elif node.op == "output":
            lines.append(f"return {node.args[0]}")
        else:
            lines.append(f"{node.name}{known} = {node.target}({', '.join([*map(str, node.args), *kwargs])})")
    return "\n".join(lines) + "\n"


def _tensor(gm: fx.GraphModule, target: str) -> Tensor | None:
    value: Any = gm
    for part in target.split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, Tensor) else None


def _line(
    name: str, before: fx.GraphModule, after: fx.GraphModule, difference: float, *, changed: bool, preserves: bool
) -> str:
    if not changed:
        return f"{name}: nothing to do"
    counts = [Counter(str(n.target) for n in gm.graph.nodes if n.op == "call_function") for gm in (before, after)]
    moved = [
        f"{counts[1][target] - counts[0][target]:+d} {target.removesuffix('.default')}"
        for target in sorted(counts[0] | counts[1])
        if counts[0][target] != counts[1][target]
    ]
    sizes = [sum(parameter.numel() for parameter in gm.parameters()) for gm in (before, after)]
    told = "outputs differ by" if preserves else "not meant to preserve the outputs, which differ by"
    return (
        f"{name}: {sum(counts[0].values())} to {sum(counts[1].values())} calls ({', '.join(moved) or 'none moved'}); "
        f"{sizes[0]:,} to {sizes[1]:,} parameters; {told} {difference:.2g} of the largest"
    )


def _same_tensors(a: fx.GraphModule, b: fx.GraphModule) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(
        first[key].shape == second[key].shape and torch.equal(first[key], second[key]) for key in first
    )


def _signature(program: ExportedProgram) -> dict[str, Any]:
    """Dynamic axes of the inputs, and the outputs' sizes: numbers where fixed, the example's size where dynamic."""
    wanted = set(program.graph_signature.user_outputs)
    outputs = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.name in wanted and isinstance(value, Tensor):
            sizes: tuple[Any, ...] = tuple(value.shape)
            outputs.append([s if isinstance(s, int) else f"dynamic {s.node.hint}" for s in sizes])
    return {"dynamic inputs": list(dynamic_axes(program).values()), "outputs": outputs}


def _difference(given: list[Tensor], expected: list[Tensor]) -> float:
    """The greatest difference relative to each output's largest value; infinite where shapes or types differ."""
    if [(x.shape, x.dtype) for x in given] != [(x.shape, x.dtype) for x in expected]:
        return float("inf")
    worst = 0.0
    for a, b in zip(given, expected, strict=True):
        if b.numel():
            a, b = a.double(), b.double()
            same = (a == b) | (a.isnan() & b.isnan())
            largest = float(b.abs().nan_to_num(0, 0, 0).max())
            off = (a - b).abs().masked_fill(same, 0.0).nan_to_num(float("inf"))
            worst = max(worst, float(off.max()) / max(largest, 1e-12))
    return worst
