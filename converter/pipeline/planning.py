"""From measurements to plans: the variants worth healing, each meant for one point of the frontier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from aslconvert.converter.cost.cache import device_fingerprint, open_cache
from aslconvert.converter.cost.pinning import pinned
from aslconvert.converter.errors import TargetNotReached
from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.limits import Limits, limits_of, need_feasible, out_of_reach
from aslconvert.converter.pipeline.state import State
from aslconvert.converter.pipeline.style import FUSED_STYLE, Style
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.timing import Timer
from aslconvert.converter.progress import Progress
from aslconvert.converter.search.candidates import Candidate, stand_in
from aslconvert.converter.search.costs import Costs, SiteCosts, site_costs
from aslconvert.converter.search.damage import Damage, site_damage
from aslconvert.converter.search.plan import Plan, candidates_of, plan_of, solve_fastest, solve_plan
from aslconvert.converter.threads import torch_threads
from aslconvert.kernels import has_int16

LADDER = (0.6, 0.8, 1.0, 1.25, 1.6)
"""Speed-ups tried, as factors on the asked one."""

DEFAULT_SPEEDUPS = (1.5, 2.0, 2.5, 3.0, 4.0)
"""Speed-ups tried where the user asks for accuracy."""

MARGIN = 1.06
"""A plan aims this much above its speed-up: the final measurement has noise of its own."""

LEAST_GAIN = 1.05
"""Below this speed-up a conversion does not pay."""

LEAST_VARIANTS = 5
"""Points that a frontier should have, where the model has as many plans."""

CORRECTIONS = 4
"""Stand-ins timed for one plan at most."""

SPREAD = 16
"""Budgets tried where the wished-for speed-ups give too few different plans."""

CLOSE = 1.04
"""A plan this little faster than needed is not corrected any more."""

QUICK_ROUNDS = 7


@dataclass(frozen=True)
class Planned:
    """One variant to come: ``target`` is the speed-up it aims at, ``expected`` what its stand-in measured.

    ``prune`` is the share of channels that go from every group that allows it; rows in ``plan`` are counted before.
    ``damage`` is what the plan's candidates do to the outputs before healing, summed over the sites (relative squared
    error); None where channels go too, whose damage is not known so early.
    ``in_order``: every channel of a site is read equally often.
    """

    id: str
    plan: Plan
    target: float
    expected: float
    prune: float = 0.0
    damage: float | None = None
    in_order: bool = False


@dataclass(frozen=True)
class Survey:
    """Measured cost and damage of every site's candidates, and the importance of each site's outputs.

    ``kept`` says of each site that the gate keeps why; it has no damage, as no plan converts it. ``left_out`` says why
    of each pruned variant that was allowed and cannot be had. ``cached`` counts the sites whose latencies are of an
    earlier run, ``notes`` tell of that.
    """

    costs: dict[str, Costs]
    kept: dict[str, str]
    damage: dict[str, Damage]
    importance: dict[str, Tensor]
    left_out: dict[str, str] = field(default_factory=dict)
    cached: int = 0
    notes: tuple[str, ...] = ()


def survey(
    subject: Subject,
    batches: Sequence[tuple[Tensor, ...]],
    options: ConvertOptions,
    *,
    threads: int,
    progress: Progress,
    style: Style = FUSED_STYLE,
    probed_share: float = math.inf,
) -> Survey:
    """Measure what each candidate of each site costs and damages; ``probed_share``: as of ``site_damage``."""
    measured = measured_costs(subject, options, threads=threads, progress=progress, style=style)
    progress.stage("damage of each site")
    open_sites = [site for site in subject.sites if site.name not in measured.kept]
    importance = output_importance(subject.gm, open_sites, batches[:2], seed=options.seed)
    damage = site_damage(
        subject.gm,
        open_sites,
        batches,
        importance=importance,
        probed_share=probed_share,
        in_order=style.in_order,
        on_site=lambda _, done, total: progress.update(done, total, "sites"),
    )
    return Survey(
        costs=measured.costs,
        kept=measured.kept,
        damage=damage,
        importance=importance,
        cached=measured.cached,
        notes=measured.notes,
    )


def measured_costs(
    subject: Subject,
    options: ConvertOptions,
    *,
    threads: int,
    progress: Progress,
    style: Style = FUSED_STYLE,
) -> SiteCosts:
    """What each candidate of each site takes, from this device's cache where the options allow it."""
    progress.stage("cost of each site")
    int16 = options.int16 and has_int16()
    cache = open_cache(device_fingerprint(threads=threads, int16=int16)) if options.cache else None
    with torch_threads(threads), pinned(threads):
        found = site_costs(
            subject.gm,
            subject.sites,
            subject.example,
            seed=options.seed,
            int16=int16,
            cache=cache,
            files=style.runner(threads=threads),
        )
    for note in found.notes:
        progress.note(note)
    return found


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

    ``original_ms`` is the original's median there. ``aims``: these speed-ups alone, instead of what the options wish.

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
    if aims is None or not plans:
        if len(plans) < LEAST_VARIANTS and all(quickest.plan != other.plan for other in plans):
            plans.append(quickest)
        plans += search.more(LEAST_VARIANTS - len(plans), besides=plans, seed=options.seed)
    if limits.any:
        # What the sites' own sizes do not show is a weight that something else reads too.
        plans = [one for one in plans if limits.kept_by(stand_in_of(subject, one.plan, seed=options.seed), subject)]
        if not plans:
            raise out_of_reach(limits, table)
    return named(plans)


def begin_search(
    subject: Subject,
    table: Mapping[str, Sequence[Candidate]],
    timer: Timer,
    options: ConvertOptions,
    limits: Limits,
    *,
    runtime: str,
    original_ms: float,
    style: Style = FUSED_STYLE,
) -> tuple[PlanSearch, Planned]:
    """A search that has timed the fastest plan, and that plan. Raises TargetNotReached as ``make_plans`` does."""
    need_feasible(limits, table)
    search = PlanSearch(subject, table, timer, runtime, original_ms, limits, style=style)
    quickest = search.fastest(seed=options.seed)
    if quickest.expected < LEAST_GAIN:
        raise TargetNotReached(
            "does_not_pay",
            f"Converting does not pay here: the fastest form is {quickest.expected:.2f} times as fast as the original "
            f"in {runtime}.",
            hint="Keep the original.",
        )
    return search, quickest


def targets(options: ConvertOptions, most: float) -> list[float]:
    """Speed-ups to aim at, none beyond ``most``; where the wish is out of reach, points up to what can be had."""
    base = [options.min_speedup * step for step in LADDER] if options.min_speedup else list(DEFAULT_SPEEDUPS)
    reachable = [target for target in base if LEAST_GAIN <= target <= most / MARGIN]
    if len(reachable) >= len(base) - 1:
        return reachable
    spread = [most ** (step / len(base)) for step in range(1, len(base) + 1)]
    exact = [options.min_speedup] if options.min_speedup and options.min_speedup <= most / MARGIN else []
    return sorted({*exact, *(target for target in spread if LEAST_GAIN <= target <= most / MARGIN)})


class PlanSearch:
    """Solves for plans and times their stand-ins, and learns from each what the rest of the network takes.

    Stand-ins run on the fused operator and in the runtime of ``style``.
    """

    def __init__(
        self,
        subject: Subject,
        table: Mapping[str, Sequence[Candidate]],
        timer: Timer,
        runtime: str,
        original_ms: float,
        limits: Limits,
        *,
        style: Style,
    ) -> None:
        self._limits = limits.of_sites
        self._fastest = solve_fastest(table, limits=limits.of_sites) or {}
        self._least_ms = sum(c.latency_ms for c in self._fastest.values())
        self._style = style
        self._subject = subject
        self._table = table
        self._timer = timer
        self._runtime = runtime
        self._original_ms = original_ms
        self._rest_ms = 0.0

    def fastest(self, *, seed: int) -> Planned:
        plan = plan_of(self._subject.sites, self._fastest)
        speedup = self._time(plan, seed=seed)
        self._learn(self._fastest, speedup)
        return self._planned(self._fastest, speedup, target=speedup)

    def towards(self, target: float, *, seed: int) -> Planned | None:
        """The least damaging plan whose stand-in measures at least ``target``.

        The sites' budget is what the wished-for latency leaves beside the rest of the network; the rest is only known
        by timing whole stand-ins, each of which corrects it.
        """
        best: Planned | None = None
        tried: set[tuple[int | None, ...]] = set()
        goal = target * MARGIN
        for _ in range(CORRECTIONS):
            budget = max(self._original_ms / goal - self._rest_ms, self._least_ms)
            chosen = solve_plan(self._table, budget, limits=self._limits)
            if chosen is None:
                break
            plan = plan_of(self._subject.sites, chosen)
            if tuple(plan.values()) in tried:
                break
            tried.add(tuple(plan.values()))
            speedup = self._time(plan, seed=seed)
            self._learn(chosen, speedup)
            if speedup >= target * MARGIN:
                best = self._planned(chosen, speedup, target=target)
                if speedup <= target * MARGIN * CLOSE:
                    break
            elif best is not None:
                break
        return best

    def near(self, target: float, *, seed: int) -> Planned | None:
        """The least damaging plan that is thought to reach ``target``, as fast as it then is."""
        budget = self._original_ms / (target * MARGIN) - self._rest_ms
        return self._once(solve_plan(self._table, max(budget, self._least_ms), limits=self._limits), seed=seed)

    def within(self, damage: float, *, seed: int) -> Planned | None:
        """The fastest plan of at most this damage, or None where that is the original."""
        return self._once(solve_fastest(self._table, damage=damage, limits=self._limits), seed=seed)

    def _once(self, chosen: Mapping[str, Candidate] | None, *, seed: int) -> Planned | None:
        if chosen is None or all(candidate.rows is None for candidate in chosen.values()):
            return None
        speedup = self._time(plan_of(self._subject.sites, chosen), seed=seed)
        self._learn(chosen, speedup)
        return self._planned(chosen, speedup, target=speedup)

    def more(self, count: int, *, besides: Sequence[Planned], seed: int) -> list[Planned]:
        """Up to ``count`` further plans, of budgets spread between the fastest and the most exact form."""
        found: list[Planned] = []
        low = self._least_ms
        high = sum(max(c.latency_ms for c in row) for row in self._table.values())
        for step in range(1, SPREAD):
            if len(found) >= count:
                break
            chosen = solve_plan(self._table, low + (high - low) * step / SPREAD, limits=self._limits)
            if chosen is None:
                continue
            plan = plan_of(self._subject.sites, chosen)
            if all(plan != other.plan for other in (*besides, *found)):
                speedup = self._time(plan, seed=seed)
                if speedup >= LEAST_GAIN:
                    found.append(self._planned(chosen, speedup, target=speedup))
        return found

    def _planned(self, chosen: Mapping[str, Candidate], speedup: float, *, target: float) -> Planned:
        return Planned(
            in_order=self._style.in_order,
            id=f"x{target:.2f}",
            plan=plan_of(self._subject.sites, chosen),
            target=target,
            expected=speedup,
            damage=sum(c.damage for c in chosen.values()),
        )

    def _learn(self, chosen: Mapping[str, Candidate], speedup: float) -> None:
        self._rest_ms = self._original_ms / speedup - sum(c.latency_ms for c in chosen.values())

    def _time(self, plan: Plan, *, seed: int) -> float:
        gm = stand_in_of(self._subject, plan, seed=seed)
        return self._timer.speedup_of(gm, self._runtime, rounds=QUICK_ROUNDS, lowered=self._style.files)


def stand_in_of(subject: Subject, plan: Plan, *, seed: int) -> fx.GraphModule:
    """The network that a plan makes, with arbitrary weights in the sites that it converts."""
    sites: dict[str, ConvSite] = {site.name: site for site in subject.sites}
    blocks = {name: stand_in(sites[name], rows, seed=seed) for name, rows in plan.items() if rows is not None}
    return replace_sites(subject.gm, blocks) if blocks else subject.gm


def named(plans: Sequence[Planned]) -> list[Planned]:
    """The plans with ids that differ: two may come out equally fast to two digits."""
    taken: set[str] = set()
    named = []
    for planned in plans:
        name, number = planned.id, 1
        while name in taken:
            number += 1
            name = f"{planned.id}-{number}"
        taken.add(name)
        named.append(replace(planned, id=name))
    return named


def store_plans(state: State, plans: Sequence[Planned], found: Survey) -> None:
    """Keep the plans for a resumed run."""
    state.write("plans", {"plans": [asdict(planned) for planned in plans], **survey_record(found)})


def load_plans(state: State) -> tuple[list[Planned], Survey] | None:
    """What ``store_plans`` kept, or None; the importance is not stored: the survey has none."""
    record = state.read("plans")
    if record is None:
        return None
    return [Planned(**planned) for planned in record["plans"]], read_survey(record)


def survey_record(found: Survey) -> dict[str, Any]:
    """A survey as JSON, without the importance, which is quick to find again."""
    return {
        "costs": {name: _pairs(costs) for name, costs in found.costs.items()},
        "kept": found.kept,
        "damage": {name: _pairs(damage) for name, damage in found.damage.items()},
        "left_out": found.left_out,
        "cached": found.cached,
        "notes": found.notes,
    }


def read_survey(record: Mapping[str, Any]) -> Survey:
    """What ``survey_record`` gave."""
    costs: dict[str, Costs] = {name: dict(map(tuple, pairs)) for name, pairs in record["costs"].items()}
    damage: dict[str, Damage] = {name: dict(map(tuple, pairs)) for name, pairs in record["damage"].items()}
    return Survey(
        costs=costs,
        kept=dict(record["kept"]),
        damage=damage,
        importance={},
        left_out=dict(record.get("left_out", {})),
        cached=int(record.get("cached", 0)),
        notes=tuple(record.get("notes", ())),
    )


def _pairs(table: Mapping[Any, float]) -> list[list[Any]]:
    return [[rows, value] for rows, value in table.items()]
