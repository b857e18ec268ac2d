"""Measures runners side by side in one run, so that the noise of a shared machine hits all of them alike."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aslconvert.converter.cost.spread import Verdict, drifts, verdict

DEFAULT_ROUNDS = 15
DEFAULT_WARMUP = 2
DEFAULT_MIN_TIME = 0.02  # seconds a sample lasts at least: far above the clock's and the scheduler's grain
Clock = Callable[[], int]
"""Nanoseconds since whenever."""

_BOOTSTRAP = 2000
_MAX_INNER = 10_000


@dataclass(frozen=True)
class Latency:
    """Median, 95th percentile and the 95 % bootstrap interval of the median, in milliseconds a call.

    ``samples`` holds one figure a round, in the order of the rounds: sample i of two runners of one ``measure`` call
    was taken within the same round. A sample is the mean over the calls that fill ``min_time``. ``drift`` is the
    relative change between the halves of the rounds, against all runners of the call together, where the spread
    supports one.
    """

    p50_ms: float
    p95_ms: float
    ci_low: float
    ci_high: float
    samples: tuple[float, ...]
    drift: float | None = None


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians with its 95 % bootstrap interval."""

    value: float
    ci_low: float
    ci_high: float

    @property
    def verdict(self) -> Verdict:
        """Faster or slower than the baseline; "same" where the spread supports neither."""
        return verdict(self.ci_low, self.ci_high)


def measure(
    runners: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = DEFAULT_ROUNDS,
    warmup: int = DEFAULT_WARMUP,
    min_time: float = DEFAULT_MIN_TIME,
    seed: int = 0,
    clock: Clock = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Time every runner once a round, in a new random order each round.

    Args:
        runners: zero-argument calls by name; each must do the whole work before it returns.
        rounds: samples taken of each runner, at least 3.
        warmup: untimed calls of each runner before the first round, at least 1.
        min_time: seconds that one sample lasts at least; 0 times single calls.
        seed: fixes the order of the runners and the bootstrap.
        clock: what samples are read from; see ``planning_clock``.

    Raises:
        ValueError: no round, no warm-up or a negative ``min_time``.
    """
    if rounds < 3 or warmup < 1 or min_time < 0:
        raise ValueError(f"need rounds >= 3, warmup >= 1, min_time >= 0; got {rounds}, {warmup}, {min_time}")
    inner = {name: _calls_for(run, warmup=warmup, min_time=min_time, clock=clock) for name, run in runners.items()}
    samples: dict[str, list[float]] = {name: [] for name in runners}
    order = list(runners)
    shuffle = random.Random(seed)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle.shuffle(order)
            for name in order:
                # An untimed call first: it takes the caches and the cores back from the runner before it.
                runners[name]()
                samples[name].append(_time_calls(runners[name], inner[name], clock))
    finally:
        if collecting:
            gc.enable()
    drifted = drifts(samples)
    return {name: replace(summarise(values, seed=seed), drift=drifted[name]) for name, values in samples.items()}


def freeze_old() -> bool:
    """Leave all objects that are there now out of collections until ``gc.unfreeze``; False where others froze some.

    Every ``measure`` begins with a whole collection. Looking through what torch and its exporters keep takes a third
    of a second each time, and is never worth it.
    """
    if gc.get_freeze_count():
        return False
    gc.collect()
    gc.freeze()
    return True


def planning_clock(threads: int) -> Clock:
    """What latencies are read from that only decide what to try: on one thread the processor's own time.

    It leaves out the time in which other processes had the core, and so tells on a busy machine what a quiet one
    would: there a form that a site's clock time made look slow would never be tried. Threads wait for each other, and
    waiting takes no processor time: of several only the clock on the wall tells the latency.
    """
    return time.process_time_ns if threads == 1 else time.perf_counter_ns


def summarise(samples_ms: list[float] | tuple[float, ...], *, seed: int = 0) -> Latency:
    """Median, 95th percentile and bootstrap interval of the median of ``samples_ms``."""
    values = np.asarray(samples_ms, dtype=np.float64)
    medians = np.median(values[_resamples(len(values), seed)], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Latency(
        p50_ms=float(np.median(values)),
        p95_ms=float(np.percentile(values, 95)),
        ci_low=float(low),
        ci_high=float(high),
        samples=tuple(float(v) for v in values),
    )


def ratio(baseline: Latency, other: Latency, *, seed: int = 0) -> Ratio:
    """Speed-up of ``other`` over ``baseline``: median(baseline) / median(other), with its interval.

    Rounds are resampled in pairs, as both were timed within the same rounds.

    Raises:
        ValueError: the two were not measured over the same number of rounds.
    """
    if len(baseline.samples) != len(other.samples):
        raise ValueError(f"{len(baseline.samples)} and {len(other.samples)} rounds: not of one measurement")
    above, below = np.asarray(baseline.samples), np.asarray(other.samples)
    picks = _resamples(len(above), seed)
    low, high = np.percentile(np.median(above[picks], axis=1) / np.median(below[picks], axis=1), [2.5, 97.5])
    return Ratio(value=baseline.p50_ms / other.p50_ms, ci_low=float(low), ci_high=float(high))


def _calls_for(run: Callable[[], Any], *, warmup: int, min_time: float, clock: Clock) -> int:
    for _ in range(warmup):
        run()
    once_ms = _time_calls(run, 1, clock)
    return max(1, min(_MAX_INNER, round(min_time * 1e3 / max(once_ms, 1e-4))))


def _time_calls(run: Callable[[], Any], calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls / 1e6


def _resamples(count: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(0, count, size=(_BOOTSTRAP, count))
