"""What our plans predicted before anything was fitted, beside what was measured of the healed variants."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from scipy.stats import spearmanr

Row = dict[str, Any]

CLOSE = 0.1
"""A predicted speed-up counts as right within this share of the measured one."""

LEAST = 3
"""Plans of one run of which an order can be told."""


def errors(rows: Sequence[Row]) -> list[float]:
    """Predicted over measured speed-up, less one, of every row that has a prediction."""
    return [row["expected_speedup"] / row["speedup"] - 1 for row in rows if row.get("expected_speedup")]


def orders(rows: Sequence[Row]) -> dict[tuple[str, int, str], float]:
    """By task, seed and budget: Spearman's correlation of the predicted damage with how far the outputs moved.

    The damage is told of plans that keep all channels. The outputs' relative L2 distance from the original's is what
    it predicts, and unlike a metric it has no ties.
    """
    runs: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row.get("expected_damage") is not None:
            runs.setdefault((row["task"], row["seed"], row["budget"]), []).append(row)
    return {
        key: float(spearmanr([row["expected_damage"] for row in part], [row["relative_l2"] for row in part]).statistic)
        for key, part in runs.items()
        if len(part) >= LEAST
    }


def section(rows: Sequence[Row]) -> list[str]:
    """Lines of Markdown on all rows of a record."""
    off = [abs(error) for error in errors(rows)]
    if not off:
        return []
    lines = [
        "## Predictions",
        "",
        f"Speed-ups predicted by timing stand-ins: within {CLOSE:.0%} of the measured one for "
        f"{sum(error <= CLOSE for error in off)} of {len(off)} variants; off by {statistics.median(off):.1%} in the "
        f"median, {max(off):.1%} at most.",
        "",
    ]
    found = orders(rows)
    if found:
        lines += [
            "Order of the damage predicted before any fit and of the healed outputs' distance from the original's:",
            "",
            "| task | seed | healing | Spearman |",
            "|---|---|---|---|",
            *(f"| {task} | {seed} | {budget} | {value:.2f} |" for (task, seed, budget), value in found.items()),
            "",
        ]
    return lines
