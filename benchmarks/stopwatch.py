"""Times calls side by side: every round meets each of them, so that a noisy moment harms all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

K = TypeVar("K", bound=Hashable)
# Forms of one op this much slower than its fastest in the trial are not timed further.
HOPELESS = 1.6
TRIALS = 3


def seconds(call: Callable[[], Any], repeats: int, device: str) -> float:
    """Seconds per call over so many calls in a row: wall time, or the device's own between two events."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / repeats
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


@dataclass
class Contest(Generic[K]):
    """Calls that are compared; `samples` holds milliseconds per call, one entry a round, in the same order for all."""

    calls: Mapping[K, Callable[[], Any]]
    device: str
    repeats: dict[K, int] = field(default_factory=dict)
    samples: dict[K, list[float]] = field(default_factory=dict)

    def trial(self, group: Callable[[K], Hashable], *, min_time: float) -> None:
        """Finds how often each call fits into `min_time` seconds, and drops the hopeless forms of each group."""
        fastest: dict[Hashable, float] = {}
        tried: dict[K, float] = {}
        for key, call in self.calls.items():
            seconds(call, 1, self.device)
            tried[key] = min(seconds(call, 1, self.device) for _ in range(TRIALS))
            if tried[key] < min_time / 10:
                tried[key] = seconds(call, math.ceil(min_time / 10 / max(tried[key], 1e-7)), self.device)
            fastest[group(key)] = min(fastest.get(group(key), math.inf), tried[key])
        for key, took in tried.items():
            if took <= HOPELESS * fastest[group(key)]:
                self.repeats[key] = max(1, math.ceil(min_time / max(took, 1e-7)))
                self.samples[key] = []

    def run(self, rounds: int) -> None:
        """So many rounds; each starts with another call, so that none is always behind the same one."""
        keys = list(self.repeats)
        for key in keys:
            seconds(self.calls[key], 1, self.device)
        for turn in range(rounds):
            at = turn % len(keys)
            for key in keys[at:] + keys[:at]:
                self.samples[key].append(seconds(self.calls[key], self.repeats[key], self.device) * 1e3)

    def median(self, key: K) -> float:
        """Milliseconds per call."""
        return statistics.median(self.samples[key])

    def fastest(self, group: Callable[[K], Hashable], name: Hashable) -> K:
        """The form of a group with the least median."""
        return min((key for key in self.samples if group(key) == name), key=self.median)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The quarter points of the values, [lower, upper]; the value itself where there is but one."""
    if len(values) < 2:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def paired(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [a / b for a, b in zip(above, below, strict=True)]
