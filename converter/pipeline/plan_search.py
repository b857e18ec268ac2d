"""Solves for plans and times their stand-ins against the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aslconvert.converter.errors import TargetNotReached
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.limits import Limits, need_feasible
from aslconvert.converter.pipeline.planned import Planned, stand_in_of
from aslconvert.converter.pipeline.style import FUSED_STYLE, Style
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.timing import Timer
from aslconvert.converter.search.candidates import Candidate
from aslconvert.converter.search.plan import Plan, plan_of, solve_fastest, solve_plan

MARGIN = 1.06
"""A plan aims this much above its speed-up: the final measurement has noise of its own."""

LEAST_GAIN = 1.05
"""Below this speed-up a conversion does not pay."""

CORRECTIONS = 4
"""Stand-ins timed for one plan at most."""

SPREAD = 16
"""Budgets tried where the wished-for speed-ups give too few different plans."""

CLOSE = 1.04
"""A plan this little faster than needed is not corrected any more."""

QUICK_ROUNDS = 7


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
