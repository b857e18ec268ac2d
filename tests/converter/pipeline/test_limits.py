"""Limits on parameters and multiply-adds hold for every plan, and one that none keeps is told with what can be had."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from torch import fx

from aslconvert.converter.errors import TargetNotReached, UsageError
from aslconvert.converter.options import ConvertOptions, parse_amount
from aslconvert.converter.pipeline.limits import limits_of
from aslconvert.converter.pipeline.plan_file import identity_of
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.planning import make_plans
from aslconvert.converter.pipeline.subject import Subject, open_subject
from aslconvert.converter.pipeline.survey import Survey
from aslconvert.converter.progress import SilentProgress
from aslconvert.converter.search.candidates import row_grid

OPTIONS = ConvertOptions(threads=1, min_speedup=1.2)


class Calls:
    """Takes a network for as fast as its parameters are few."""

    def __init__(self, subject: Subject) -> None:
        self.whole = self.params(subject.gm)

    @staticmethod
    def params(gm: fx.GraphModule) -> float:
        return float(sum(parameter.numel() for parameter in gm.parameters()))

    def speedup_of(self, gm: fx.GraphModule, runtime: str, *, rounds: int, lowered: bool) -> float:
        return self.whole / self.params(gm)


@pytest.fixture(scope="module")
def subject(workshop: Path) -> Subject:
    return open_subject(str(workshop / "net.pt2"), data=str(workshop / "data.npz"), options=OPTIONS)


def plans(subject: Subject, options: ConvertOptions) -> list[Planned]:
    costs: Any = {site.name: {None: 1.0, **{rows: rows / 128 for rows in row_grid(site)}} for site in subject.sites}
    damage: Any = {site.name: {rows: 1 / rows for rows in row_grid(site)} for site in subject.sites}
    found = Survey(costs=costs, kept={}, damage=damage, importance={})
    watch: Any = Calls(subject)
    return make_plans(subject, found, watch, options, runtime="torch", original_ms=3.0, progress=SilentProgress())


def sizes(subject: Subject, made: list[Planned]) -> list[tuple[float, float]]:
    limits = limits_of(subject, OPTIONS)
    table = [[limits.sizes[name](rows) for name, rows in planned.plan.items()] for planned in made]
    return [
        (limits.rest.bytes + sum(s.bytes for s in row), limits.rest.macs + sum(s.macs for s in row)) for row in table
    ]


def test_every_plan_keeps_the_limits(subject: Subject) -> None:
    free = plans(subject, OPTIONS)
    most_bytes, most_macs = (max(column) for column in zip(*sizes(subject, free), strict=True))
    small = plans(subject, dataclasses.replace(OPTIONS, max_params_mb=most_bytes / 2 / 1e6))
    assert small
    assert all(held <= most_bytes / 2 for held, _ in sizes(subject, small))
    light = plans(subject, dataclasses.replace(OPTIONS, max_macs=most_macs / 2))
    assert light
    assert all(macs <= most_macs / 2 for _, macs in sizes(subject, light))
    assert all(planned.damage is not None for planned in (*free, *small, *light))


@pytest.mark.parametrize("limit", [{"max_params_mb": 1e-6}, {"max_macs": 10.0}])
def test_limits_that_no_plan_keeps_end_with_5_and_say_what_can_be_had(
    subject: Subject, limit: dict[str, float]
) -> None:
    with pytest.raises(TargetNotReached) as caught:
        plans(subject, dataclasses.replace(OPTIONS, **limit))
    assert (caught.value.code, caught.value.exit_code) == ("limits_not_reached", 5)
    assert "MB of parameters" in caught.value.message
    assert "--max-params-mb" in caught.value.hint


def test_a_plan_file_is_for_its_limits(subject: Subject) -> None:
    assert identity_of(subject, OPTIONS) != identity_of(subject, dataclasses.replace(OPTIONS, max_macs=1e9))


@pytest.mark.parametrize(
    ("text", "value"), [("250000", 250e3), ("300M", 300e6), ("1.2G", 1.2e9), ("7k", 7e3), ("1e6", 1e6), ("2t", 2e12)]
)
def test_amounts_are_read(text: str, value: float) -> None:
    assert parse_amount(text) == value


@pytest.mark.parametrize("text", ["", "M", "-1", "1.2GB", "nan", "inf", "1,2G"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_amount(text)
    assert caught.value.code == "bad_amount"


@pytest.mark.parametrize("option", ["max_params_mb", "max_macs"])
def test_a_limit_of_nothing_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="above 0"):
        ConvertOptions(**{option: 0.0})  # type: ignore[arg-type]
