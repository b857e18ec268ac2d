"""The frontier in a few strokes: plans near those that a conversion would heal, most of them timed only once."""

from __future__ import annotations

from dataclasses import replace

from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.limits import limits_of
from aslconvert.converter.pipeline.plan_search import begin_search
from aslconvert.converter.pipeline.planned import Planned, named
from aslconvert.converter.pipeline.planning import targets
from aslconvert.converter.pipeline.style import Style
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.survey import Survey
from aslconvert.converter.pipeline.timing import Timer
from aslconvert.converter.progress import Progress
from aslconvert.converter.search.plan import candidates_of


def sketch_plans(
    subject: Subject,
    found: Survey,
    timer: Timer,
    options: ConvertOptions,
    *,
    runtime: str,
    original_ms: float,
    progress: Progress,
    style: Style,
) -> list[Planned]:
    """Plans near those of ``make_plans``, most of them timed once: each takes the speed-up it has as its target.

    Where an accuracy is asked for (``max_drop``), the fastest plan whose damages add up to its square is among them.

    Raises:
        TargetNotReached: as of ``make_plans``.
    """
    progress.stage("plans")
    limits = limits_of(subject, options)
    table = candidates_of(subject.sites, found.costs, found.damage, sizes=limits.sizes)
    search, quickest = begin_search(
        subject, table, timer, options, limits, runtime=runtime, original_ms=original_ms, style=style
    )
    plans: list[Planned | None] = [quickest]
    if options.max_drop is not None:
        plans.append(search.within(options.max_drop**2, seed=options.seed))
    wanted = targets(options, quickest.expected)
    for number, target in enumerate(wanted):
        asked = target == options.min_speedup
        plans.append(search.towards(target, seed=options.seed) if asked else search.near(target, seed=options.seed))
        progress.update(number + 1, len(wanted), "plans")
    different: list[Planned] = []
    for planned in plans:
        if planned is not None and all(planned.plan != other.plan for other in different):
            different.append(planned)
    return named([replace(one, id=f"x{one.expected:.2f}", target=one.expected) for one in different])
