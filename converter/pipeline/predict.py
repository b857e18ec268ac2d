"""What a conversion would give, before anybody waits for it: measured costs and damages, and the plans that follow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch.export import ExportedProgram

from aslconvert.converter.cost.counts import count
from aslconvert.converter.cost.device import DeviceProfile, device_profile, usable_cores
from aslconvert.converter.cost.latency import Latency
from aslconvert.converter.cost.runtimes import ONNX_RUNTIMES, available_runtimes
from aslconvert.converter.errors import TargetNotReached, UsageError
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.limits import check_limits, limits_of, need_feasible, out_of_reach
from aslconvert.converter.pipeline.measured import drift_notes
from aslconvert.converter.pipeline.plan_search import LEAST_GAIN, QUICK_ROUNDS
from aslconvert.converter.pipeline.planned import Planned, stand_in_of
from aslconvert.converter.pipeline.sketch import sketch_plans
from aslconvert.converter.pipeline.style import Style, find_style
from aslconvert.converter.pipeline.subject import Subject, open_subject
from aslconvert.converter.pipeline.survey import Survey, measured_costs, survey
from aslconvert.converter.pipeline.timing import ORIGINAL, Timer
from aslconvert.converter.progress import Progress, SilentProgress
from aslconvert.converter.search.candidates import PROBED_ROWS_PER_CHANNEL, Candidate
from aslconvert.converter.search.plan import Plan, candidates_of, plan_of
from aslconvert.converter.threads import torch_threads

SURVEYED_PIXELS = 1 << 18
"""Input positions that the damage is surveyed on: a quarter of what a conversion reads, for much less time."""

SURVEYED_ROWS_PER_CHANNEL = 2.0
"""Between these and all taps damage is taken for linear, which rather overrates it."""

NO_COMPILE = "torch.compile was left out, as compiling takes long: convert measures it too"
NO_DATA = "what the outputs lose is not known without data: give --data"


@dataclass(frozen=True)
class PredictedPoint:
    """One plan. ``speedup`` is measured on a stand-in, against the original in its fastest runtime.

    ``relative_l2`` is the predicted relative error of the outputs before healing, None without data; ``params``,
    ``macs`` (of one call) and ``bytes`` are counted on the stand-in.
    """

    id: str
    speedup: float
    relative_l2: float | None
    params: int
    macs: int
    bytes: int
    converted: int
    plan: Plan


@dataclass(frozen=True)
class Forecast:
    """The original's latencies, the predicted points in ascending order of speed-up, and the one that was asked for.

    ``answer`` names it, or None where nothing was asked or no point meets it (``met``). ``kept`` says of sites that
    stay convolutions why.
    """

    latency: dict[str, Latency]
    runtime: str
    original: PredictedPoint
    points: tuple[PredictedPoint, ...]
    answer: str | None
    met: bool
    sites: int
    cached: int
    kept: dict[str, str]
    device: DeviceProfile
    unavailable: dict[str, str]
    notes: tuple[str, ...]
    seconds: float


def predict(
    model: str,
    *,
    data: str | None,
    options: ConvertOptions,
    program: ExportedProgram | None = None,
    progress: Progress | None = None,
) -> Forecast:
    """Measure and plan as ``convert`` does and stop there; only the cache of latencies is written.

    ``max_drop`` bounds the relative error of the outputs before healing, whatever the metric. Without ``data`` the
    points have as many rows a channel everywhere, and only their latency is known. ``program``: the loaded model.

    Raises:
        ModelRefused, UsageError, NothingToConvert: as of ``convert``.
        TargetNotReached: ``does_not_pay`` or ``limits_not_reached``.
    """
    progress, started = progress or SilentProgress(), time.monotonic()
    if data is None and options.max_drop is not None:
        raise UsageError("needs_data", "What the outputs lose is not known without data.", hint="Give --data.")
    threads = options.threads or usable_cores()
    with torch_threads(usable_cores()):
        progress.stage("open model and data")
        subject = open_subject(model, data=data, options=options, program=program)
        check_limits(subject, options)
        timer = Timer(subject.example, threads=threads, seed=options.seed, int16=options.int16)
        try:
            return _Prediction(subject, timer, options, threads=threads, progress=progress).run(
                with_data=data is not None, started=started
            )
        finally:
            timer.close()


class _Prediction:
    def __init__(
        self, subject: Subject, timer: Timer, options: ConvertOptions, *, threads: int, progress: Progress
    ) -> None:
        self._subject = subject
        self._timer = timer
        self._options = options
        self._threads = threads
        self._progress = progress

    def run(self, *, with_data: bool, started: float) -> Forecast:
        subject, timer, progress = self._subject, self._timer, self._progress
        progress.stage("time the original")
        quick = any(available_runtimes()[name] is None for name in ONNX_RUNTIMES)
        timer.add_original(subject.original, compiled=not quick)
        latency = timer.measure(rounds=QUICK_ROUNDS)
        # By the clock that stand-ins are timed by as well; what is told is the wall's.
        runtime, original_ms = timer.fastest_original(rounds=QUICK_ROUNDS)
        style = find_style(subject, timer, seed=self._options.seed)
        if with_data:
            found, planned = self._planned(runtime, original_ms, style)
        else:
            found, planned = self._uniform(runtime, style)
        points = [self._point(one.id, one.expected, one.damage, one.plan) for one in planned]
        answer, met = self._answer(points)
        return Forecast(
            latency=latency[ORIGINAL],
            runtime=runtime,
            original=self._point("original", 1.0, 0.0 if with_data else None, {}),
            points=tuple(sorted(points, key=lambda point: point.speedup)),
            answer=answer,
            met=met,
            sites=len(subject.sites),
            cached=found.cached,
            kept=found.kept,
            device=device_profile(threads=self._threads),
            unavailable=timer.unavailable,
            notes=(
                *found.notes,
                *drift_notes(latency),
                *([NO_COMPILE] if quick else []),
                *([] if with_data else [NO_DATA]),
            ),
            seconds=time.monotonic() - started,
        )

    def _planned(self, runtime: str, original_ms: float, style: Style) -> tuple[Survey, list[Planned]]:
        """Plans like those that a conversion would heal, and for an asked loss the fastest one within it."""
        subject, options = self._subject, self._options
        batches = subject.calibration(options, pixels=SURVEYED_PIXELS)
        found = survey(
            subject,
            batches,
            options,
            threads=self._threads,
            progress=self._progress,
            style=style,
            probed_share=SURVEYED_ROWS_PER_CHANNEL,
        )
        plans = sketch_plans(
            subject,
            found,
            self._timer,
            options,
            runtime=runtime,
            original_ms=original_ms,
            progress=self._progress,
            style=style,
        )
        return found, plans

    def _uniform(self, runtime: str, style: Style) -> tuple[Survey, list[Planned]]:
        """Without damages: as many rows a channel at every site where they pay, for a few counts."""
        subject, options = self._subject, self._options
        measured = measured_costs(subject, options, threads=self._threads, progress=self._progress, style=style)
        found = Survey(measured.costs, measured.kept, {}, {}, cached=measured.cached, notes=measured.notes)
        rows = {
            site.name: dict.fromkeys([n for n in measured.costs[site.name] if n is not None], 0.0)
            for site in subject.sites
            if site.name not in measured.kept
        }
        limits = limits_of(subject, options)
        table = candidates_of(subject.sites, measured.costs, rows, sizes=limits.sizes)
        need_feasible(limits, table)
        self._progress.stage("plans")
        plans: list[Planned] = []
        for share in sorted(PROBED_ROWS_PER_CHANNEL, reverse=True):
            plan = plan_of(subject.sites, _alike(subject, table, share))
            known = any(plan == other.plan for other in plans) or not any(plan.values())
            if not known and limits.kept_by(stand_in_of(subject, plan, seed=options.seed), subject):
                plans.append(self._timed(plan, runtime, style, taken=[one.id for one in plans]))
        if not plans and limits.any:
            raise out_of_reach(limits, table)
        if not plans or max(plan.expected for plan in plans) < LEAST_GAIN:
            raise TargetNotReached(
                "does_not_pay", f"Converting does not pay here: no form is faster than {runtime}.", hint="Keep it."
            )
        return found, plans

    def _timed(self, plan: Plan, runtime: str, style: Style, *, taken: Sequence[str]) -> Planned:
        gm = stand_in_of(self._subject, plan, seed=self._options.seed)
        speedup = self._timer.speedup_of(gm, runtime, rounds=QUICK_ROUNDS, lowered=style.files)
        name = f"x{speedup:.2f}"
        name = next(one for one in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if one not in taken)
        return Planned(id=name, plan=plan, target=speedup, expected=speedup, in_order=style.in_order)

    def _point(self, name: str, speedup: float, damage: float | None, plan: Plan) -> PredictedPoint:
        counts = count(stand_in_of(self._subject, plan, seed=self._options.seed), self._subject.example)
        return PredictedPoint(
            id=name,
            speedup=speedup,
            relative_l2=None if damage is None else max(damage, 0.0) ** 0.5,
            params=counts.params,
            macs=counts.macs,
            bytes=counts.bytes,
            converted=sum(rows is not None for rows in plan.values()),
            plan=plan,
        )

    def _answer(self, points: Iterable[PredictedPoint]) -> tuple[str | None, bool]:
        """The point asked for, and whether there is one; true where nothing was asked."""
        least, most = self._options.min_speedup, self._options.max_drop
        if least is None and most is None:
            return None, True
        if least is not None:
            fast = [point for point in points if point.speedup >= least]
            best = min(fast, key=lambda point: (point.relative_l2 or 0.0, point.speedup), default=None)
        else:
            # Without data every error is unknown, and none is within a bound.
            near = [p for p in points if p.relative_l2 is not None and most is not None and p.relative_l2 <= most]
            best = max(near, key=lambda point: point.speedup, default=None)
        return (None, False) if best is None else (best.id, True)


def _alike(subject: Subject, table: Mapping[str, Sequence[Candidate]], share: float) -> dict[str, Candidate]:
    """For each key the candidate whose rows are nearest to ``share`` a channel, where it is faster than keeping."""
    chosen = {}
    for site in subject.sites:
        keep, *others = table[site.key]
        inexact = [one for one in others if one.rows is not None and one.rows < site.exact_rows]
        nearest = min(inexact, key=lambda one: abs((one.rows or 0) - share * site.in_channels), default=keep)
        chosen[site.key] = nearest if nearest.latency_ms < keep.latency_ms else keep
    return chosen
