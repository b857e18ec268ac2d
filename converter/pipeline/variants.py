"""Makes variants out of plans: fit, heal within a share of the budget, score."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from aslconvert.converter.fit.layerwise import SiteFit, fit_layerwise
from aslconvert.converter.heal.distil import heal
from aslconvert.converter.heal.pool import Pool
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.planning import Planned
from aslconvert.converter.pipeline.state import State
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.progress import Progress

FOCUS_SHARE = 0.7
"""Of the healing time, for the variant that answers the user's wish; the others share the rest."""

LEAST_HEALING = 1.0


@dataclass
class Made:
    """A variant: its healed graph, the fit it started from, and how long it was healed."""

    planned: Planned
    gm: fx.GraphModule
    fits: dict[str, SiteFit]
    healing_seconds: float
    healing_steps: int
    first_loss: float
    last_loss: float


class Workshop:
    """Makes the variants one by one, the most wanted first, and divides the time that is left among those to come."""

    def __init__(
        self,
        subject: Subject,
        batches: Sequence[tuple[Tensor, ...]],
        pool: Pool,
        state: State,
        options: ConvertOptions,
        *,
        deadline: float,
        progress: Progress,
        steps: Mapping[str, int] | None = None,
    ) -> None:
        self._subject = subject
        self._batches = batches
        self._pool = pool
        self._state = state
        self._options = options
        self._deadline = deadline
        self._progress = progress
        # By variant: what a plan file says, else what is asked for, else the clock decides.
        self._steps = steps or {}

    def make_all(self, plans: Sequence[Planned], importance: Mapping[str, Tensor]) -> list[Made]:
        """All variants in ascending order of speed-up."""
        focus = focused(plans, self._options)
        order = sorted(plans, key=lambda planned: planned is not focus)
        weights = shares(order, focus)
        # All are fitted before the first is healed: only then is it known how much time there is to share.
        fits = [self._fit(planned, importance) for planned in order]
        made = []
        for index, planned in enumerate(order):
            left = max(self._deadline - time.monotonic(), 0.0)
            share = weights[index] / sum(weights[index:])
            made.append(self._heal(planned, fits[index], max(left * share, LEAST_HEALING)))
        return sorted(made, key=lambda variant: variant.planned.target)

    def _fit(self, planned: Planned, importance: Mapping[str, Tensor]) -> dict[str, SiteFit]:
        stored = self._state.read_fits(planned.id)
        if stored is not None:
            return stored
        self._progress.stage(f"fit {planned.id}")
        rows = {name: count for name, count in planned.plan.items() if count is not None}
        fits = fit_layerwise(
            self._subject.gm,
            self._subject.sites,
            rows,
            self._batches,
            importance=importance,
            on_site=lambda _, done, total: self._progress.update(done, total, "sites"),
        )
        self._state.write_fits(planned.id, fits)
        return fits

    def _heal(self, planned: Planned, fits: dict[str, SiteFit], seconds: float) -> Made:
        gm = replace_sites(self._subject.gm, {name: fit.block for name, fit in fits.items()})
        key = f"{planned.id}.seconds"
        planned_seconds = self._state.read(key)
        if planned_seconds is None:
            planned_seconds = seconds
            self._state.write(key, seconds)
        self._progress.stage(f"heal {planned.id}")
        steps = self._steps.get(planned.id, self._options.heal_steps)
        healing = heal(
            gm,
            self._pool,
            seconds=planned_seconds if steps is None else math.inf,
            max_steps=steps,
            seed=self._options.seed,
            batch=self._subject.fixed_batch,
            checkpoint=self._state.checkpoint(planned.id),
            on_step=lambda used, allowed, loss: self._progress.update(
                used, planned_seconds if steps is None else used, "s", loss=loss
            ),
        )
        return Made(
            planned=planned,
            gm=gm,
            fits=fits,
            healing_seconds=healing.seconds,
            healing_steps=healing.steps,
            first_loss=healing.first_loss,
            last_loss=healing.last_loss,
        )


def focused(plans: Sequence[Planned], options: ConvertOptions) -> Planned | None:
    """The plan that aims just at the asked speed-up, if a speed-up was asked for."""
    if options.min_speedup is None:
        return None
    enough = [planned for planned in plans if planned.target >= options.min_speedup]
    return min(enough, key=lambda planned: planned.target) if enough else None


def shares(order: Sequence[Planned], focus: Planned | None) -> list[float]:
    """Weight of each plan in the healing time, in the given order."""
    if focus is None or len(order) < 2:
        return [1.0] * len(order)
    rest = (1 - FOCUS_SHARE) / (len(order) - 1)
    return [FOCUS_SHARE if planned is focus else rest for planned in order]
