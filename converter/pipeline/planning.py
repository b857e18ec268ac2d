"""From measurements to plans: the variants worth healing, each meant for one point of the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from aslconvert.converter.cost.device import DeviceProfile
from aslconvert.converter.errors import TargetNotReached
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.limits import limits_of, out_of_reach
from aslconvert.converter.pipeline.plan_search import LEAST_GAIN, MARGIN, begin_search
from aslconvert.converter.pipeline.planned import Planned, named, stand_in_of
from aslconvert.converter.pipeline.state import State
from aslconvert.converter.pipeline.style import FUSED_STYLE, Style, find_style
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.survey import Survey, read_survey, survey, survey_record
from aslconvert.converter.pipeline.timing import Timer
from aslconvert.converter.progress import Progress
from aslconvert.converter.search.plan import candidates_of

LADDER = (0.6, 0.8, 1.0, 1.25, 1.6)
"""Speed-ups tried, as factors on the asked one."""

DEFAULT_SPEEDUPS = (1.5, 2.0, 2.5, 3.0, 4.0)
"""Speed-ups tried where the user asks for accuracy."""

LEAST_VARIANTS = 5
"""Points that a frontier should have, where the model has as many plans."""


@dataclass(frozen=True)
class Found:
    """What measuring and planning gave; ``refusal``: why there are no plans."""

    plans: list[Planned]
    survey: Survey
    style: Style
    refusal: TargetNotReached | None = None


def find_plans(
    subject: Subject,
    batches: Sequence[tuple[Tensor, ...]],
    timer: Timer,
    options: ConvertOptions,
    *,
    fastest: tuple[str, float],
    threads: int,
    progress: Progress,
    aims: Sequence[float] | None = None,
) -> Found:
    """Survey the sites and plan, in the manner that suits the runtime of the original.

    ``fastest``: that runtime, and the original's median there in milliseconds. ``aims``: as of ``make_plans``.
    """
    runtime, original_ms = fastest
    style = find_style(subject, timer, seed=options.seed)
    found = survey(subject, batches, options, threads=threads, progress=progress, style=style)
    try:
        plans = make_plans(
            subject,
            found,
            timer,
            options,
            runtime=runtime,
            original_ms=original_ms,
            progress=progress,
            style=style,
            aims=aims,
        )
    except TargetNotReached as error:
        return Found([], found, style, error)
    return Found(plans, found, style)


def make_plans(
    subject: Subject,
    found: Survey,
    timer: Timer,
    options: ConvertOptions,
    *,
    runtime: str,
    original_ms: float,
    progress: Progress,
    style: Style = FUSED_STYLE,
    aims: Sequence[float] | None = None,
) -> list[Planned]:
    """Plans along the frontier, each checked by timing a stand-in of it against the original in ``runtime``.

    ``original_ms`` is the original's median there. ``aims``: these speed-ups alone, instead of what the options
    wish, or the fastest plan where none is in reach.

    Raises:
        TargetNotReached: ``does_not_pay``, when no plan is faster than the original; ``limits_not_reached``, when none
            keeps the limits on parameters and multiply-adds.
    """
    progress.stage("plans")
    limits = limits_of(subject, options)
    table = candidates_of(subject.sites, found.costs, found.damage, sizes=limits.sizes)
    search, quickest = begin_search(
        subject, table, timer, options, limits, runtime=runtime, original_ms=original_ms, style=style
    )
    wanted = targets(options, quickest.expected) if aims is None else list(aims)
    plans: list[Planned] = []
    for number, target in enumerate(wanted):
        planned = search.towards(target, seed=options.seed)
        if planned is not None and all(planned.plan != other.plan for other in plans):
            plans.append(planned)
        progress.update(number + 1, len(wanted), "plans")
    if aims is not None:
        plans = plans or [quickest]
    else:
        if len(plans) < LEAST_VARIANTS and all(quickest.plan != other.plan for other in plans):
            plans.append(quickest)
        plans += search.more(LEAST_VARIANTS - len(plans), besides=plans, seed=options.seed)
    if limits.any:
        # What the sites' own sizes do not show is a weight that something else reads too.
        plans = [one for one in plans if limits.kept_by(stand_in_of(subject, one.plan, seed=options.seed), subject)]
        if not plans:
            raise out_of_reach(limits, table)
    return named(plans)


def targets(options: ConvertOptions, most: float) -> list[float]:
    """Speed-ups to aim at, none beyond ``most``; where the wish is out of reach, points up to what can be had."""
    base = [options.min_speedup * step for step in LADDER] if options.min_speedup else list(DEFAULT_SPEEDUPS)
    reachable = [target for target in base if LEAST_GAIN <= target <= most / MARGIN]
    if len(reachable) >= len(base) - 1:
        return reachable
    spread = [most ** (step / len(base)) for step in range(1, len(base) + 1)]
    exact = [options.min_speedup] if options.min_speedup and options.min_speedup <= most / MARGIN else []
    return sorted({*exact, *(target for target in spread if LEAST_GAIN <= target <= most / MARGIN)})


def store_plans(state: State, plans: Sequence[Planned], found: Survey, *, device: DeviceProfile) -> None:
    """Keep the plans for a resumed run, and which ``device`` they were measured on."""
    plain = [asdict(planned) for planned in plans]
    state.write("plans", {"plans": plain, "device": _told(device), **survey_record(found)})


def load_plans(state: State, *, device: DeviceProfile) -> tuple[list[Planned], Survey] | None:
    """What ``store_plans`` kept, or None; the importance is not stored: the survey has none.

    Plans of another device than ``device`` are good all the same, and what is healed is not lost; the survey notes it.
    """
    record = state.read("plans")
    if record is None:
        return None
    found = read_survey(record)
    if record.get("device", _told(device)) != _told(device):
        told = f"The plans were measured on {record['device']}, where this run began; all speed-ups told are of here."
        found = replace(found, notes=(*found.notes, told))
    return [Planned(**planned) for planned in record["plans"]], found


def _told(device: DeviceProfile) -> str:
    return f"{device.cpu}, {device.threads} threads ({device.torch_isa})"
