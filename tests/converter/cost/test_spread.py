"""Drift, differences and stored figures: said where the samples support it, and only there."""

import random

import pytest

from aslconvert.converter.cost.latency import ratio, summarise
from aslconvert.converter.cost.spread import agrees, common_drift, drift_of, drifts, verdict

STEADY = [1.0, 1.02, 0.99, 1.01, 0.98, 1.0, 1.03, 0.97, 1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01]


def test_a_trend_and_a_jump_are_drift_and_noise_is_none() -> None:
    trend = [one * (1 + 0.03 * i) for i, one in enumerate(STEADY)]
    jump = [one * (1.0 if i < 8 else 1.3) for i, one in enumerate(STEADY)]
    assert drift_of(trend) == pytest.approx(0.21, abs=0.06)
    assert drift_of(jump) == pytest.approx(0.3, abs=0.05)
    assert drift_of(jump[::-1]) == pytest.approx(-0.23, abs=0.05)
    assert drift_of(STEADY) is None
    assert drift_of([1.0] * 15) is None
    # One slow round is no drift, and three rounds cannot show any.
    assert drift_of([*STEADY[:-1], 9.0]) is None
    assert drift_of([1.0, 2.0, 3.0]) is None
    assert drift_of([1.0]) is None


def test_a_machine_that_slows_everything_alike_drifts_by_itself_alone() -> None:
    load = [1.0 + 0.05 * i for i in range(15)]
    noise = random.Random(0)
    run = {
        name: [ms * x * noise.uniform(0.99, 1.01) for x in load] for name, ms in {"a": 2.0, "b": 7.0, "c": 0.3}.items()
    }
    assert drifts(run) == {"a": None, "b": None, "c": None}
    change = common_drift(run)
    assert change is not None
    assert change > 0.2


def test_the_one_that_drifts_is_named() -> None:
    run = {name: list(STEADY) for name in "abc"}
    run["late"] = [one * (1.0 if i < 8 else 1.4) for i, one in enumerate(STEADY)]
    found = drifts(run)
    assert found["late"] == pytest.approx(0.4, abs=0.1)
    assert [found[name] for name in "abc"] == [None] * 3
    assert common_drift(run) is None
    assert drifts({}) == {}


@pytest.mark.parametrize(
    ("low", "high", "word"), [(1.1, 1.3, "faster"), (0.7, 0.9, "slower"), (0.9, 1.2, "same"), (1.0, 1.2, "same")]
)
def test_a_difference_is_real_when_its_interval_leaves_out_one(low: float, high: float, word: str) -> None:
    assert verdict(low, high) == word


def test_ratios_say_what_they_support() -> None:
    base = summarise(STEADY)
    assert ratio(base, summarise([x / 2 for x in STEADY])).verdict == "faster"
    assert ratio(base, summarise([x * 2 for x in STEADY])).verdict == "slower"
    assert ratio(base, summarise(STEADY[::-1])).verdict == "same"


def test_a_stored_figure_holds_until_the_whole_interval_has_left_it() -> None:
    assert agrees(STEADY, [x * 1.1 for x in STEADY])
    assert agrees(STEADY, [0.6, 1.1, 2.0, 0.9, 3.0])
    assert not agrees(STEADY, [x * 1.5 for x in STEADY])
    assert not agrees(STEADY, [x / 1.5 for x in STEADY])
    assert agrees(STEADY, [x * 1.5 for x in STEADY], tolerance=0.6)
