"""Measures all variants together, scores them on held-out data and chooses the one that answers the wish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aslconvert.converter.cost.latency import Latency
from aslconvert.converter.errors import TargetNotReached
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.judge import Judge, Score
from aslconvert.converter.pipeline.quantised import Quantised, int8_form
from aslconvert.converter.pipeline.timing import ORIGINAL, Timer, fastest_of, scored_form
from aslconvert.converter.pipeline.variants import Made, focused
from aslconvert.converter.report.schema import Precision, Report
from aslconvert.converter.search.frontier import Point, choose, dominated

Wish = tuple[float | None, float | None]
"""The least speed-up and the greatest loss that were asked for."""


@dataclass(frozen=True)
class Selection:
    """What was measured, by the ids of variants, and the id ``chosen``.

    ``latency`` [variant][runtime]; ``fastest``: the original's median in its best runtime, in milliseconds; ``scores``
    are those on the test split, ``worse`` the variants that others dominate there. ``met``: on the validate split the
    chosen one answers the wish. ``quantised``: those in 8 bits that some runtime could run.
    """

    latency: Mapping[str, Mapping[str, Latency]]
    fastest: float
    precisions: Mapping[str, Precision]
    scores: Mapping[str, Score]
    worse: frozenset[str]
    quantised: Sequence[Quantised]
    chosen: str
    met: bool


def select(
    made: Sequence[Made],
    quantised: Sequence[Quantised],
    timer: Timer,
    options: ConvertOptions,
    *,
    wish: Wish,
    validate: Callable[[], Judge],
    test: Judge,
    decided: str | None,
) -> Selection:
    """Time everything in turn with the original, choose on the validate split and score on the test split.

    ``decided`` is the choice of an earlier run that is repeated.
    """
    for variant in made:
        timer.add_variant(variant.planned.id, variant.gm)
    for item in quantised:
        timer.add_int8(item.id, item.data)
    focus = focused([variant.planned for variant in made], options)
    for variant in made:
        if variant.planned in focus:
            timer.add_compiled(variant.planned.id, variant.gm)
    latency = timer.measure()
    fastest = min(value.p50_ms for value in latency[ORIGINAL].values())
    quantised = [item for item in quantised if item.id in latency]
    forms: dict[str, tuple[Precision, Callable[..., Any]]] = {
        v.planned.id: scored_form(v.gm, latency[v.planned.id]) for v in made
    }
    for item in quantised:
        forms[item.id] = "int8", int8_form(item.data, fastest_of(latency[item.id]))
    speedups = {key: fastest / min(value.p50_ms for value in latency[key].values()) for key in forms}
    judge = validate()
    chosen_by = [Point(key, speedups[key], judge.score(form).loss) for key, (_, form) in forms.items()]
    min_speedup, max_drop = wish
    chosen, met = choose(chosen_by, min_speedup=min_speedup, max_drop=max_drop)
    scores = {key: test.score(form) for key, (_, form) in forms.items()}
    worse = dominated([Point(key, speedups[key], score.loss) for key, score in scores.items()])
    return Selection(
        latency=latency,
        fastest=fastest,
        precisions={key: precision for key, (precision, _) in forms.items()},
        scores=scores,
        worse=frozenset(worse),
        quantised=quantised,
        chosen=decided or chosen,
        met=met,
    )


def tell_if_missed(report: Report, *, min_speedup: float | None, max_drop: float | None, met: bool, out: Path) -> None:
    """Raise TargetNotReached when the chosen variant misses the wish; ``met``: on the validate split it did not."""
    variant = report.chosen_variant
    if variant is None:
        return
    if min_speedup is not None and variant.best_speedup < min_speedup:
        raise TargetNotReached(
            "speedup_not_reached",
            f"No variant is {min_speedup:g} times as fast as the original; the fastest, {variant.id}, is "
            f"{variant.best_speedup:.2f} times as fast. It was written to '{out}'.",
        )
    loss = variant.loss.value if variant.loss is not None else variant.agreement.relative_l2
    if max_drop is not None and loss > max_drop:
        told = (
            f"{variant.id} was chosen on the validate split, but loses {loss:.4g} on the test split, more than "
            f"{max_drop:g}."
            if met
            else f"No variant loses at most {max_drop:g}; the best, {variant.id}, loses {loss:.4g}."
        )
        raise TargetNotReached(
            "accuracy_not_reached",
            f"{told} It was written to '{out}'.",
            hint="Give more time with --budget, or accept a larger --max-drop.",
        )
