from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable

import pytest

from aslconvert.converter.cost.latency import Latency, freeze_old, measure, planning_clock, ratio, summarise


class FakeClock:
    """Time that passes only when a runner says so: the figures are then exact on the busiest machine."""

    def __init__(self) -> None:
        self.nanoseconds = 0

    def __call__(self) -> int:
        return self.nanoseconds

    def takes(self, *milliseconds: float) -> Callable[[], None]:
        turns = itertools.cycle(milliseconds)

        def run() -> None:
            self.nanoseconds += round(next(turns) * 1e6)

        return run


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_medians_and_their_ratio_are_the_truth(clock: FakeClock) -> None:
    found = measure({"slow": clock.takes(2.0), "fast": clock.takes(0.5)}, rounds=9, min_time=0.002, clock=clock)
    assert (found["slow"].p50_ms, found["fast"].p50_ms) == (2.0, 0.5)
    assert ratio(found["slow"], found["fast"]).value == 4.0
    assert all(len(one.samples) == 9 for one in found.values())


def test_short_calls_are_repeated_within_a_sample(clock: FakeClock) -> None:
    found = measure({"uneven": clock.takes(0.5, 1.5)}, rounds=5, warmup=1, min_time=0.03, clock=clock)
    assert found["uneven"].samples == pytest.approx([1.0] * 5, rel=0.05)


def test_rounds_interleave_in_an_order_that_the_seed_fixes() -> None:
    def order(seed: int) -> list[str]:
        calls: list[str] = []
        runners = {name: (lambda name=name: calls.append(name)) for name in "abc"}  # type: ignore[misc]
        measure(runners, rounds=8, warmup=1, min_time=0.0, seed=seed)
        # Warm-up and calibration come first, then each turn is an untimed call and a timed one.
        return calls[6:][::2]

    turns = order(1)
    assert turns == order(1) != order(2)
    assert all(sorted(turns[i : i + 3]) == ["a", "b", "c"] for i in range(0, 24, 3))
    assert len({tuple(turns[i : i + 3]) for i in range(0, 24, 3)}) > 1


def test_collection_is_off_while_timing_and_back_after() -> None:
    seen = []
    measure({"a": lambda: seen.append(gc.isenabled())}, rounds=3, warmup=1, min_time=0.0)
    assert not seen[-1]
    assert gc.isenabled()


def test_a_failing_runner_leaves_collection_on() -> None:
    def fail() -> None:
        if not gc.isenabled():
            raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        measure({"a": fail}, rounds=3)
    assert gc.isenabled()


def test_the_interval_holds_the_median_and_shrinks_with_samples() -> None:
    few, many = summarise([1.0, 2.0, 3.0, 4.0, 5.0]), summarise([1.0, 2.0, 3.0, 4.0, 5.0] * 40)
    assert few.p50_ms == many.p50_ms == 3.0
    assert few.ci_low <= 3.0 <= few.ci_high
    assert many.ci_high - many.ci_low < few.ci_high - few.ci_low
    assert few.p95_ms == pytest.approx(4.8)


def test_ratios_pair_the_rounds() -> None:
    # Both rise and fall with the machine's load, so that their ratio is far steadier than either of them.
    load = [1.0, 3.0, 1.5, 2.0, 5.0, 1.2, 2.2]
    speedup = ratio(summarise([4 * x for x in load]), summarise(load))
    assert speedup.ci_low == pytest.approx(4.0)
    assert speedup.ci_high == pytest.approx(4.0)
    with pytest.raises(ValueError, match="7 and 2 rounds"):
        ratio(summarise(load), Latency(1.0, 1.0, 1.0, 1.0, (1.0, 1.0)))


@pytest.mark.parametrize("options", [{"rounds": 2}, {"warmup": 0}, {"min_time": -1.0}])
def test_measurements_that_say_nothing_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="rounds >= 3"):
        measure({"a": lambda: None}, **options)  # type: ignore[arg-type]


def test_planning_on_one_thread_leaves_out_the_time_of_others() -> None:
    def waits() -> None:
        time.sleep(0.005)
        sum(range(1000))

    on_the_wall = measure({"waits": waits}, rounds=3, min_time=0.0, clock=planning_clock(2))["waits"]
    of_the_processor = measure({"waits": waits}, rounds=3, min_time=0.0, clock=planning_clock(1))["waits"]
    assert on_the_wall.p50_ms >= 5
    assert 0 < of_the_processor.p50_ms < on_the_wall.p50_ms / 4


def test_what_others_froze_is_left_to_them() -> None:
    gc.unfreeze()
    try:
        assert freeze_old()
        assert gc.get_freeze_count() > 0
        assert not freeze_old()
    finally:
        gc.freeze()
