"""Where plans are timed: on the fused operator, or in the ONNX runtime where lowered networks are faster."""

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx

from aslconvert.converter.cost.runtimes import ONNX_RUNTIMES
from aslconvert.converter.errors import TargetNotReached
from aslconvert.converter.fit.layerwise import fit_layerwise
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.planning import make_plans
from aslconvert.converter.pipeline.style import FUSED_STYLE, Style, find_style
from aslconvert.converter.pipeline.subject import Subject, open_subject
from aslconvert.converter.pipeline.survey import Survey, survey
from aslconvert.converter.progress import SilentProgress

OPTIONS = ConvertOptions(threads=1, min_speedup=1.5)
ROWS = {"0": (8, 16), "2": (16, 32, 48)}


class Calls:
    """Takes a lowered network for as fast as its parameters are few, and one on the fused operator for ``fused`` times
    that."""

    def __init__(self, subject: Subject, *, fused: float) -> None:
        self.whole = self.params(subject.gm)
        self.fused = fused
        self.lowered: list[tuple[str, ...]] = []

    @staticmethod
    def params(gm: fx.GraphModule) -> float:
        return float(sum(parameter.numel() for parameter in gm.parameters()))

    def speedup_of(self, gm: fx.GraphModule, runtime: str, *, rounds: int, lowered: Collection[str]) -> float:
        self.lowered.append(tuple(lowered))
        return self.whole / self.params(gm) * (1.0 if lowered else self.fused)

    def quick(self, gm: fx.GraphModule, *, rounds: int, lowered: Collection[str]) -> dict[str, Any]:
        times = {"torch": 1 / self.fused, "onnxruntime": 1.0, "openvino": 1.5}
        return {name: SimpleNamespace(p50_ms=value) for name, value in times.items() if name in ("torch", *lowered)}


@pytest.fixture(scope="module")
def subject(workshop: Path) -> Subject:
    return open_subject(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), options=OPTIONS)


def plans(subject: Subject, watch: Any, style: Style) -> list[Planned]:
    counts = {site.name: ROWS.get(site.name, ()) for site in subject.sites}
    costs: Any = {name: {None: 1.0, **{rows: rows / 64 for rows in row}} for name, row in counts.items()}
    damage: Any = {name: {rows: 1 / rows for rows in row} for name, row in counts.items() if row}
    kept = {name: "no rows" for name, row in counts.items() if not row}
    found = Survey(costs=costs, kept=kept, damage=damage, importance={})
    return make_plans(
        subject, found, watch, OPTIONS, runtime="compile", original_ms=3.0, progress=SilentProgress(), style=style
    )


def test_the_faster_way_to_run_is_found(subject: Subject) -> None:
    def style(fused: float) -> Style:
        watch: Any = Calls(subject, fused=fused)
        return find_style(subject, watch, seed=0)

    assert style(0.5) == Style("onnxruntime")
    # The fused operator chooses its channels for nothing, so a tie is its own.
    assert style(1.0) == style(2.0) == FUSED_STYLE


def test_stand_ins_are_timed_where_variants_will_run(subject: Subject) -> None:
    watch = Calls(subject, fused=1.0)
    found = plans(subject, watch, FUSED_STYLE)
    assert set(watch.lowered) == {()}
    assert not any(planned.in_order for planned in found)
    watch = Calls(subject, fused=0.01)
    found = plans(subject, watch, Style("onnxruntime"))
    assert set(watch.lowered) == {("onnxruntime",)}
    assert all(planned.in_order for planned in found)
    assert any(planned.expected >= 1.5 for planned in found)


def test_what_never_pays_is_refused(subject: Subject) -> None:
    with pytest.raises(TargetNotReached) as caught:
        plans(subject, Calls(subject, fused=0.01), FUSED_STYLE)
    assert caught.value.code == "does_not_pay"


@pytest.mark.parametrize(
    "runtime", [ONNX_RUNTIMES[0], *(pytest.param(r, marks=pytest.mark.deep) for r in ONNX_RUNTIMES[1:])]
)
def test_costs_and_fits_of_files_read_channels_in_order(subject: Subject, runtime: str) -> None:
    pytest.importorskip(runtime)
    batches = subject.calibration(OPTIONS)
    found = survey(subject, batches, OPTIONS, threads=1, progress=SilentProgress(), style=Style(runtime))
    for site in subject.sites:
        counts = [rows for rows in found.costs[site.name] if rows is not None]
        assert all(rows % site.in_channels == 0 for rows in counts)
        assert all(value > 0 for value in found.costs[site.name].values())
    rows = {site.name: 2 * site.in_channels for site in subject.sites}
    fits = fit_layerwise(subject.gm, subject.sites, rows, batches, in_order=True)
    for site in subject.sites:
        assert (
            torch.bincount(fits[site.name].block.source, minlength=site.in_channels).tolist() == [2] * site.in_channels
        )
    lowered = lower(replace_sites(subject.gm, {name: fit.block for name, fit in fits.items()}))
    assert not [node for node in lowered.graph.nodes if "index" in str(node.target)]
