"""Whether variants of a model run fastest on the fused operator or lowered in an ONNX runtime, which plans follow."""

from __future__ import annotations

from dataclasses import dataclass

from aslconvert.converter.cost.runtimes import ONNX_RUNTIMES
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.timing import Timer
from aslconvert.converter.search.alone import FileRunner
from aslconvert.converter.search.candidates import stand_in

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

    def runner(self, *, threads: int) -> FileRunner | None:
        """What single sites are timed with in that ONNX runtime; None: eager torch."""
        return FileRunner(self.runtime, threads) if self.in_order else None


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
