"""What the spread of timed samples supports: that two models differ, that one drifted, that a stored figure holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

Verdict = Literal["faster", "slower", "same"]
Samples = np.ndarray[tuple[int], np.dtype[np.float64]]

NO_DIFFERENCE = "no difference that the spread supports"

DRIFT = 0.05
"""Change between the halves of a run that counts: a twentieth is what a plan's margin covers."""

SIGNIFICANCE = 0.01
"""Of the rank test between the halves; eight rounds are the fewest that can reach it."""

STALE = 0.15
"""A stored median may be this much off before a new look refuses it: frequency and neighbours move it by as much."""

_BOOTSTRAP = 2000


def verdict(low: float, high: float) -> Verdict:
    """What the interval ``low`` .. ``high`` of a speed-up says: "same" where it includes 1."""
    if low > 1.0:
        return "faster"
    return "slower" if high < 1.0 else "same"


def drift_of(samples: Sequence[float]) -> float | None:
    """Relative change from the first to the second half of the rounds; None where the spread supports none.

    A trend and a jump both move the halves apart: by more than ``DRIFT`` in the median, and in the rank test of Mann
    and Whitney.
    """
    values = np.asarray(samples, dtype=np.float64)
    half = len(values) // 2
    if half == 0:
        return None
    first, second = values[:half], values[len(values) - half :]
    change = float(np.median(second) / np.median(first)) - 1.0
    if abs(change) <= DRIFT:
        return None
    from scipy.stats import mannwhitneyu  # slow to import, and seldom needed

    return change if float(mannwhitneyu(first, second).pvalue) < SIGNIFICANCE else None


def drifts(run: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """The drift of each runner of one interleaved run against all of them together.

    Every sample is divided by the level of its round, so that a machine that slows everything alike is not told here;
    ``common_drift`` tells it.
    """
    if not run:
        return {}
    level = _level(run)
    return {name: drift_of(list(np.asarray(values) / level)) for name, values in run.items()}


def common_drift(run: Mapping[str, Sequence[float]]) -> float | None:
    """By how much everything in one interleaved run became slower (or faster, below 0) between its halves, or None."""
    return drift_of(list(_level(run))) if run else None


def agrees(stored: Sequence[float], now: Sequence[float], *, tolerance: float | None = None, seed: int = 0) -> bool:
    """Whether samples taken ``now`` may be of the same latency as ``stored`` ones, taken in another run.

    False only when the whole 95 % interval of the ratio of the medians lies beyond ``tolerance`` (None: ``STALE``).
    """
    allowed = STALE if tolerance is None else tolerance
    draw = np.random.default_rng(seed)

    def medians(samples: Sequence[float]) -> Samples:
        values = np.asarray(samples, dtype=np.float64)
        return np.median(values[draw.integers(0, len(values), size=(_BOOTSTRAP, len(values)))], axis=1)

    low, high = np.percentile(medians(now) / medians(stored), [2.5, 97.5])
    return bool(low <= 1.0 + allowed and high >= 1.0 / (1.0 + allowed))


def _level(run: Mapping[str, Sequence[float]]) -> Samples:
    """Of each round, the median over the runners of how their sample compares with their own median."""
    table = np.asarray(list(run.values()), dtype=np.float64)
    return np.median(table / np.median(table, axis=1, keepdims=True), axis=0)
