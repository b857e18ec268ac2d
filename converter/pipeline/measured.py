"""What a report says of its own latencies: intervals of speed-ups, drift, and dominance within the spread."""

from __future__ import annotations

from collections.abc import Mapping

from aslconvert.converter.cost.latency import Latency, ratio
from aslconvert.converter.cost.spread import common_drift
from aslconvert.converter.pipeline.timing import ORIGINAL
from aslconvert.converter.report.schema import Report, Variant
from aslconvert.converter.search.frontier import Point, dominators

Table = Mapping[str, Mapping[str, Latency]]
"""Latency by model and runtime, all of one interleaved run."""


def with_spread(report: Report, latency: Table, *, pinned: bool, cached: int, notes: tuple[str, ...]) -> Report:
    """``report`` with what the samples of ``latency`` support.

    ``pinned``: as of ``Timer.pinned``; ``cached`` and ``notes``: as of the ``Survey``.
    """
    fastest = latency[ORIGINAL][report.original.fastest_runtime]
    points = [Point(v.id, v.best_speedup, _loss(v)) for v in report.variants]
    variants = [
        variant.model_copy(
            update={
                "speedup_ci": {runtime: _interval(fastest, value) for runtime, value in latency[variant.id].items()},
                "dominated_in_speed": _dominated_in_speed(report, variant, points, latency),
            }
        )
        for variant in report.variants
    ]
    return report.model_copy(
        update={
            "variants": tuple(variants),
            "pinned": pinned,
            "costs_cached": cached,
            "measurement_notes": (*notes, *drift_notes(latency)),
        }
    )


def drift_notes(latency: Table) -> tuple[str, ...]:
    """A sentence on what drifted while ``latency`` was measured, and one on what did so by itself."""
    everything = {f"{name} in {runtime}": value for name, row in latency.items() for runtime, value in row.items()}
    notes = []
    common = common_drift({name: value.samples for name, value in everything.items()})
    if common is not None:
        notes.append(
            f"While latencies were measured all became {abs(common):.0%} {'slower' if common > 0 else 'faster'}: "
            "speed-ups compare within the same rounds, milliseconds are of no steady machine."
        )
    alone = [f"{name} ({value.drift:+.0%})" for name, value in everything.items() if value.drift is not None]
    if alone:
        notes.append(f"Drifted against the rest while it was measured: {', '.join(alone)}.")
    return tuple(notes)


def _interval(baseline: Latency, other: Latency) -> tuple[float, float]:
    found = ratio(baseline, other)
    return found.ci_low, found.ci_high


def _dominated_in_speed(report: Report, variant: Variant, points: list[Point], latency: Table) -> bool | None:
    if not variant.dominated:
        return None
    by_id = {other.id: other for other in report.variants}
    own = latency[variant.id][variant.fastest_runtime]
    point = next(point for point in points if point.id == variant.id)
    rivals = [by_id[other.id] for other in dominators(point, points)]
    return any(ratio(own, latency[rival.id][rival.fastest_runtime]).verdict == "faster" for rival in rivals)


def _loss(variant: Variant) -> float:
    return variant.agreement.relative_l2 if variant.loss is None else variant.loss.value
