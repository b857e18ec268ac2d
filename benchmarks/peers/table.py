"""The page of a comparison: who is fastest within an acceptable loss, and every point, mean and spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from peers.methods import METHODS
from peers.predictions import section as predictions
from peers.tasks import MINOR
from peers.verdict import section as equal_latency

Row = dict[str, Any]

NOTES = """\
- Every variant of every method is healed by the same distillation from the original, on the same pool, for the same
  budget; int8 forms are not healed. No labels are used, but by `prune-taylor`'s importance.
- Latency: batch 1, all variants of a row of the record and the original interleaved in one measurement; every method
  counts in its fastest runtime, and so does the original, in float32. Variants of all methods pass the same passes.
- `loss` is what the metric loses against the original on the test split; negative is better than the original.
  `relative` is its share of the original's score.
- The first table of a task picks points by their loss on the test split itself, which flatters all methods alike.
- Ours chooses rows for each site by measured cost and damage, and keeps sites; the others treat all sites alike, but
  keep those of fewer than eight channels and those where they would save no multiply-adds. Where `aslconvert convert`
  would refuse, as no plan pays in eager torch, points `K=1C` and `K=2C` have so many rows a channel at every site.
"""


def page(record: Mapping[str, Any]) -> str:
    """Markdown of a record as ``__main__`` writes it."""
    rows, left_out = record["rows"], record["left_out"]
    lines = [
        "# Structural compression, side by side",
        "",
        f"{'; '.join(_devices(record))}. Written by `make bench-peers`.",
        "",
        NOTES,
        *(f"- `{name}`: {text}." for name, text in METHODS.items()),
        "",
    ]
    for (task, budget), part in _grouped(rows, "task", "budget").items():
        lines += _section(task, budget, part, record["tasks"].get(task, ""))
    lines += predictions(rows)
    if left_out:
        lines += ["## Left out", "", "| task | method | seed | budget | reason |", "|---|---|---|---|---|"]
        lines += [
            f"| {row['task']} | {row['method']} {row['code']} | {row['seed']} | {row['budget']} | {row['reason']} |"
            for row in left_out
        ]
        lines.append("")
    return "\n".join(lines)


def _devices(record: Mapping[str, Any]) -> list[str]:
    """What the rows were measured on: each row's own device, or the record's where it has none."""
    used = [row.get("device") or record["device"] for row in record["rows"]] or [record["device"]]
    return sorted({f"{one['cpu']}, {one['threads']} thread(s), torch {one['torch']}" for one in used})


def best_within(rows: Sequence[Row], limit: float) -> dict[str, list[float]]:
    """By method, each seed's largest speed-up among points that lose ``limit`` at most; seeds without one give 1."""
    best: dict[str, list[float]] = {}
    for (method, _), part in _grouped(rows, "method", "seed").items():
        # The original itself is always there.
        best.setdefault(method, []).append(max([1.0, *(row["speedup"] for row in part if row["loss"] <= limit)]))
    return best


def _section(task: str, budget: str, rows: Sequence[Row], note: str) -> list[str]:
    metric, unit = rows[0]["metric"], rows[0]["unit"]
    shown = f"{metric} [{unit}]" if unit else metric
    limit = MINOR.get(metric, 0.0)
    seeds = sorted({row["seed"] for row in rows})
    # Rows of one measurement share one figure.
    originals = sorted({row["original_ms"] for row in rows})
    runtimes = ", ".join(sorted({row["original_runtime"] for row in rows}))
    lines = [
        f"## {task}, healed {budget} a variant",
        "",
        f"{note}. {shown} of the original {_spread([row['original'] for row in rows[:1]], 4)}, "
        f"{_spread(originals, 3)} ms in {runtimes}; seeds {', '.join(map(str, seeds))}.",
        "",
        f"Fastest with a loss of {limit:g}{' ' + unit if unit else ''} at most (mean, spread over seeds):",
        "",
        "| method | speed-up |",
        "|---|---|",
    ]
    best = best_within(rows, limit)
    for method in sorted(best, key=lambda name: -statistics.mean(best[name])):
        lines.append(f"| {method} | {_spread(best[method], 2)} |")
    lines += [
        "",
        f"| method | point | loss in {shown} | relative | 95 % of the loss "
        "| speed-up | 95 % of it | ms | runtime | steps |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (method, point), part in _grouped(_in_order(rows), "method", "point").items():
        low, high = (statistics.mean(row["loss_ci"][end] for row in part) for end in (0, 1))
        slow, quick = (statistics.mean(row["speedup_ci"][end] for row in part) for end in (0, 1))
        lines.append(
            f"| {method} | {point} | {_spread([row['loss'] for row in part], 4)} | {_relative(part)} "
            f"| {low:.4f} .. {high:.4f} "
            f"| {_spread([row['speedup'] for row in part], 2)} | {slow:.2f} .. {quick:.2f} "
            f"| {_spread([row['latency_ms'] for row in part], 3)} "
            f"| {', '.join(sorted({row['runtime'] for row in part}))} "
            f"| {_spread([row['healing_steps'] for row in part], 0)} |"
        )
    return [*lines, "", *equal_latency(rows)]


def _relative(rows: Sequence[Row]) -> str:
    if any(not row["original"] for row in rows):
        return ""
    return f"{_spread([100 * row['loss'] / row['original'] for row in rows], 1)} %"


def _in_order(rows: Sequence[Row]) -> list[Row]:
    names = list(METHODS)
    return sorted(rows, key=lambda row: (names.index(row["method"]), row["speedup"]))


def _grouped(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def _spread(values: Sequence[float], digits: int) -> str:
    """Mean, and the standard deviation where there are several values."""
    mean = statistics.mean(values)
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")
