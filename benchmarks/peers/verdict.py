"""At equal latency: what each point of every other method loses against the best of ours that is as fast."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

OURS = ("asl", "asl-int8", "asl-prune")
"""What a conversion makes, with `--allow int8,prune`."""

OFFERED = "int8"
"""A rival, and what `--allow int8` returns where it is the best: beside a third method it counts as ours."""

AS_FAST = 0.97
"""A point counts as being as fast from this share of the other's speed-up: latencies are not known better."""

PAYS = 1.05
"""By this a point is clearly faster. What is not so beside the original is no rival: that loses nothing."""

VERDICTS = ("ahead", "faster", "tie", "behind", "out of reach", "offered")


@dataclass(frozen=True)
class Comparison:
    """One point of another method, means over seeds; ``ours`` names the point of ours, None where none is as fast.

    ``ahead``: what the other loses more; ``spread``: of that difference, see ``compared``.
    """

    method: str
    point: str
    speedup: float
    loss: float
    ours: str | None
    our_speedup: float
    our_loss: float
    ahead: float
    spread: float

    @property
    def verdict(self) -> str:
        """One of ``VERDICTS``, as ours is: "ahead" loses less, "faster" loses as much and is clearly faster.

        "out of reach": none of ours is as fast. The original in 8 bits is "offered" where ours is not ahead of it.
        """
        if self.ours is not None and abs(self.ahead) <= self.spread:
            return "faster" if self.our_speedup >= PAYS * self.speedup else "tie"
        if self.ours is not None and self.ahead > 0:
            return "ahead"
        if self.method == OFFERED:
            return "offered"
        return "out of reach" if self.ours is None else "behind"


@dataclass(frozen=True)
class _Point:
    method: str
    point: str
    speedup: float
    loss: float
    deviation: float
    seeds: int


def compared(rows: Sequence[Row]) -> list[Comparison]:
    """The points of all other methods of one task and budget that pay, each against the best of ours.

    Of ours those of the most seeds count alone: the best of many single runs is a lucky one. The spread is one
    standard deviation of the difference, of single runs: by what the losses of each scatter over seeds, on the one
    test split of all; of a single run, by what the size of that split leaves open.
    """
    points = _points(rows)
    found = []
    for other in points:
        if other.method in OURS or other.speedup < PAYS:
            continue
        mine = [point for point in points if point.method in OURS or point.method == OFFERED != other.method]
        rivals = [point for point in mine if point.speedup >= AS_FAST * other.speedup]
        most = max((point.seeds for point in rivals), default=0)
        best = min((point for point in rivals if point.seeds == most), key=lambda point: point.loss, default=None)
        if best is None:
            found.append(
                Comparison(other.method, other.point, other.speedup, other.loss, None, math.nan, math.nan, math.nan, 0)
            )
            continue
        found.append(
            Comparison(
                method=other.method,
                point=other.point,
                speedup=other.speedup,
                loss=other.loss,
                ours=f"{best.method} {best.point}",
                our_speedup=best.speedup,
                our_loss=best.loss,
                ahead=other.loss - best.loss,
                spread=math.hypot(other.deviation, best.deviation),
            )
        )
    return found


def section(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown: the comparisons of one task and budget, and how they ended."""
    entries = compared(rows)
    if not entries:
        return []
    counts = {name: sum(entry.verdict == name for entry in entries) for name in VERDICTS}
    lines = [
        "At equal latency, each point of another method against the best of ours that is as fast (`verdict.py`): "
        + ", ".join(f"{name} {count}" for name, count in counts.items())
        + ".",
        "",
        "| method | point | speed-up | loss | ours | speed-up | loss | ours loses less by | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in sorted(entries, key=lambda entry: entry.speedup):
        told = f"| {entry.method} | {entry.point} | {entry.speedup:.2f} | {entry.loss:.4f} "
        if entry.ours is None:
            lines.append(f"{told}| | | | | {entry.verdict} |")
        else:
            lines.append(
                f"{told}| {entry.ours} | {entry.our_speedup:.2f} | {entry.our_loss:.4f} "
                f"| {entry.ahead:.4f} ± {entry.spread:.4f} | {entry.verdict} |"
            )
    return [*lines, ""]


def _points(rows: Sequence[Row]) -> list[_Point]:
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        parts.setdefault((row["method"], row["point"]), []).append(row)
    return [
        _Point(
            method,
            point,
            statistics.mean(row["speedup"] for row in part),
            statistics.mean(row["loss"] for row in part),
            _deviation(part),
            len({row["seed"] for row in part}),
        )
        for (method, point), part in parts.items()
    ]


def _deviation(rows: Sequence[Row]) -> float:
    if len(rows) == 1:
        # 95 % of a normal distribution are 3.92 deviations wide.
        return float(rows[0]["loss_ci"][1] - rows[0]["loss_ci"][0]) / 3.92
    return statistics.stdev(row["loss"] for row in rows)
