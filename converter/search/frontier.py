"""Which measured variants no other dominates, and which one answers what the user asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A measured variant: ``speedup`` over the original in its fastest runtime, ``loss`` of the metric."""

    id: str
    speedup: float
    loss: float


def dominated(points: Sequence[Point]) -> set[str]:
    """Ids of points that another is at least as good as in both figures and better in one."""
    return {point.id for point in points if dominators(point, points)}


def dominators(point: Point, points: Sequence[Point]) -> list[Point]:
    """Those of ``points`` that are at least as good as ``point`` in both figures and better in one."""
    return [
        other
        for other in points
        if other.speedup >= point.speedup
        and other.loss <= point.loss
        and (other.speedup > point.speedup or other.loss < point.loss)
    ]


def choose(points: Sequence[Point], *, min_speedup: float | None, max_drop: float | None) -> tuple[str, bool]:
    """The variant asked for, and whether it meets the wish.

    ``min_speedup``: least loss among those fast enough; ``max_drop``: fastest among those accurate enough. When none
    is, the one that comes nearest in the asked figure. Exactly one of the two must be given.
    """
    if not points or (min_speedup is None) == (max_drop is None):
        raise ValueError("choose needs points and exactly one of min_speedup and max_drop")
    if min_speedup is not None:
        fast = [point for point in points if point.speedup >= min_speedup]
        if fast:
            return min(fast, key=lambda point: (point.loss, -point.speedup)).id, True
        return max(points, key=lambda point: (point.speedup, -point.loss)).id, False
    close = [point for point in points if max_drop is not None and point.loss <= max_drop]
    if close:
        return max(close, key=lambda point: (point.speedup, -point.loss)).id, True
    return min(points, key=lambda point: (point.loss, -point.speedup)).id, False
