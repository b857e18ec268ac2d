"""Whether variants of a model run fastest on the fused operator or lowered in an ONNX runtime, which plans follow."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from aslconvert.converter.cost.runtimes import FILE_RUNNERS, ONNX_RUNTIMES
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.timing import Timer
from aslconvert.converter.search.candidates import stand_in
from aslconvert.converter.search.costs import FileRunner

FUSED = "torch"
PREFERENCE = 1.05
"""An ONNX runtime must be this much faster: only the fused operator reads channels in any order for nothing."""

ROUNDS = 9


@dataclass(frozen=True)
class Style:
    """``runtime`` is what candidates are timed in: "torch", on the fused operator, or one of ``ONNX_RUNTIMES``.

    In these every channel is read equally often, since any other choice of channels is a copy of them there.
    """

    runtime: str = FUSED

    @property
    def in_order(self) -> bool:
        """Whether rows read their channels in order."""
        return self.runtime != FUSED

    @property
    def files(self) -> tuple[str, ...]:
        """The ONNX runtimes that stand-ins of plans are timed in."""
        return (self.runtime,) if self.in_order else ()


FUSED_STYLE = Style()


def find_style(subject: Subject, timer: Timer, *, seed: int) -> Style:
    """Times one row a channel at every site on the fused operator and lowered in each ONNX runtime."""
    blocks = {
        site.name: stand_in(site, site.in_channels, seed=seed)
        for site in subject.sites
        if site.row_groups == 1 and site.in_channels < site.exact_rows
    }
    if not blocks:
        return FUSED_STYLE
    timed = timer.quick(replace_sites(subject.gm, blocks), rounds=ROUNDS, lowered=ONNX_RUNTIMES)
    files = {name: value.p50_ms for name, value in timed.items() if name in ONNX_RUNTIMES}
    fused = min(value.p50_ms for name, value in timed.items() if name not in ONNX_RUNTIMES)
    best = min(files, key=files.__getitem__, default=None)
    return Style(best) if best is not None and files[best] * PREFERENCE < fused else FUSED_STYLE


def file_runner(runtime: str, *, threads: int) -> FileRunner:
    """Runs graphs of standard operators as ``.onnx`` files in one of ``ONNX_RUNTIMES``."""

    def build(gm: fx.GraphModule, x: Tensor) -> Callable[[], Any]:
        with tempfile.TemporaryDirectory(prefix="aslconvert-") as folder:
            path = Path(folder) / "site.onnx"
            path.write_bytes(onnx_bytes(reexport(gm, (x,))))
            return FILE_RUNNERS[runtime](path, (x,), threads=threads)

    return build
