"""Where plans are timed: in eager torch, and in the original's own runtime where eager torch alone would not pay."""

from pathlib import Path
from typing import Any

import pytest
from torch import fx

from aslconvert.converter.errors import TargetNotReached
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.planning import Planned, Survey, make_plans
from aslconvert.converter.pipeline.subject import Subject, open_subject
from aslconvert.converter.progress import SilentProgress

OPTIONS = ConvertOptions(threads=1, min_speedup=1.5)
ROWS = {"0": (8, 16), "2": (16, 32, 48)}


class Calls:
    """Takes a lowered network for as fast as its parameters are few, and an eager one for ``eager`` times that."""

    def __init__(self, subject: Subject, *, eager: float) -> None:
        self.whole = self.params(subject.gm)
        self.eager = eager
        self.lowered: list[bool] = []

    @staticmethod
    def params(gm: fx.GraphModule) -> float:
        return float(sum(parameter.numel() for parameter in gm.parameters()))

    def speedup_of(self, gm: fx.GraphModule, runtime: str, *, rounds: int, lowered: bool) -> float:
        self.lowered.append(lowered)
        return self.whole / self.params(gm) * (1.0 if lowered else self.eager)


@pytest.fixture(scope="module")
def subject(workshop: Path) -> Subject:
    return open_subject(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), options=OPTIONS)


def plans(subject: Subject, watch: Any, runtime: str) -> list[Planned]:
    counts = {site.name: ROWS.get(site.name, ()) for site in subject.sites}
    costs: Any = {name: {None: 1.0, **{rows: rows / 64 for rows in row}} for name, row in counts.items()}
    damage: Any = {name: {rows: 1 / rows for rows in row} for name, row in counts.items() if row}
    kept = {name: "no rows" for name, row in counts.items() if not row}
    found = Survey(costs=costs, kept=kept, damage=damage, importance={})
    return make_plans(subject, found, watch, OPTIONS, runtime=runtime, original_ms=3.0, progress=SilentProgress())


def test_eager_torch_is_enough_where_it_pays(subject: Subject) -> None:
    watch = Calls(subject, eager=1.0)
    assert plans(subject, watch, "onnxruntime")
    assert set(watch.lowered) == {False}


def test_where_it_does_not_pay_the_originals_own_runtime_is_tried(subject: Subject) -> None:
    watch = Calls(subject, eager=0.01)
    found = plans(subject, watch, "onnxruntime")
    assert any(planned.expected >= 1.5 for planned in found)
    # The fastest form alone was timed in eager torch.
    assert watch.lowered[0] is False
    assert set(watch.lowered[1:]) == {True}


def test_torch_has_no_such_second_chance(subject: Subject) -> None:
    watch = Calls(subject, eager=0.01)
    with pytest.raises(TargetNotReached) as caught:
        plans(subject, watch, "compile")
    assert caught.value.code == "does_not_pay"
    assert watch.lowered == [False]
