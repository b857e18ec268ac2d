"""Makes variants out of plans: fit, heal within a share of the budget, score."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from aslconvert.converter.errors import InternalError, ModelRefused
from aslconvert.converter.fit.layerwise import SiteFit, fit_layerwise
from aslconvert.converter.heal.device import healing_device, placed
from aslconvert.converter.heal.pool import Pool
from aslconvert.converter.heal.team import heal_together
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.pruned import Cut, cut
from aslconvert.converter.pipeline.state import State
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.progress import Progress
from aslconvert.converter.search.plan import Plan

FOCUS_SHARE = 0.7
"""Of the healing time, for the variants that answer the user's wish; the others share the rest."""

LEAST_HEALING = 1.0


@dataclass
class Made:
    """A variant: its healed graph, the fit it started from, how long it was healed, and what was pruned in between.

    ``steps_asked``: of its schedule, where that went by steps; it may have ended before them. The losses are those on
    held-out samples, of the start and of what was ``kept`` ("start", "raw" or "averaged" weights).
    """

    planned: Planned
    gm: fx.GraphModule
    fits: dict[str, SiteFit]
    healing_seconds: float
    healing_steps: int
    first_loss: float
    last_loss: float
    cut: Cut | None = None
    steps_asked: int | None = None
    kept: str = "raw"


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
        self._device = healing_device(options.device)
        self._pool = pool.to(self._device)
        self._state = state
        self._options = options
        self._deadline = deadline
        self._progress = progress
        # By variant: what a plan file says, else what is asked for, else the clock decides.
        self._steps = steps or {}
        self._fits: list[tuple[Plan, bool, dict[str, SiteFit]]] = []
        self.left_out: dict[str, str] = {}

    def make_all(self, plans: Sequence[Planned], importance: Mapping[str, Tensor]) -> list[Made]:
        """All variants in ascending order of speed-up, but for those that could not be pruned (``left_out``)."""
        focus = focused(plans, self._options)
        order = sorted(plans, key=lambda planned: planned not in focus)
        # All are fitted before the first is healed: only then is it known how much time there is to share.
        fits = [self._fit(planned, importance) for planned in order]
        cuts = {planned.id: self._cut(planned, fit) for planned, fit in zip(order, fits, strict=True) if planned.prune}
        ready = [pair for pair in zip(order, fits, strict=True) if pair[0].id not in self.left_out]
        weights = shares([planned for planned, _ in ready], focus)
        made = []
        for index, (planned, fit) in enumerate(ready):
            left = max(self._deadline - time.monotonic(), 0.0)
            share = weights[index] / sum(weights[index:])
            made.append(self._heal(planned, fit, cuts.get(planned.id), max(left * share, LEAST_HEALING)))
        return sorted(made, key=lambda variant: variant.planned.target)

    def _fit(self, planned: Planned, importance: Mapping[str, Tensor]) -> dict[str, SiteFit]:
        rows = {name: count for name, count in planned.plan.items() if count is not None}
        like = planned.plan, planned.in_order
        known = next((fits for *same, fits in self._fits if tuple(same) == like), None)
        stored = self._state.read_fits(planned.id) if known is None else known
        if stored is None and not rows:
            stored = {}
        if stored is not None:
            self._fits.append((*like, stored))
            return stored
        self._progress.stage(f"fit {planned.id}")
        fits = fit_layerwise(
            self._subject.gm,
            self._subject.sites,
            rows,
            self._batches,
            importance=importance,
            in_order=planned.in_order,
            on_site=lambda _, done, total: self._progress.update(done, total, "sites"),
        )
        self._state.write_fits(planned.id, fits)
        self._fits.append((*like, fits))
        return fits

    def _cut(self, planned: Planned, fits: dict[str, SiteFit]) -> Cut | None:
        self._progress.stage(f"prune {planned.id}")
        gm = replace_sites(self._subject.gm, {name: fit.block for name, fit in fits.items()})
        name = f"{planned.id}.cut"
        stored = self._state.read_tensors(name)
        try:
            pruned = cut(
                gm,
                self._subject,
                self._batches,
                self._pool,
                share=planned.prune,
                seed=self._options.seed,
                refitted=None if stored is None else (stored, *self._state.read(name)),
            )
        except (ModelRefused, InternalError) as error:
            self.left_out[planned.id] = error.message
            self._progress.note(f"{planned.id} is left out: {error.message}")
            return None
        if stored is None:
            self._state.write(name, [pruned.refitted, pruned.loss, pruned.loss_refitted])
            self._state.write_tensors(name, pruned.gm.state_dict())
        return pruned

    def _heal(self, planned: Planned, fits: dict[str, SiteFit], pruned: Cut | None, seconds: float) -> Made:
        blocks = {name: fit.block for name, fit in fits.items()}
        gm = replace_sites(self._subject.gm, blocks) if pruned is None else pruned.gm
        key = f"{planned.id}.seconds"
        planned_seconds = self._state.read(key)
        if planned_seconds is None:
            planned_seconds = seconds
            self._state.write(key, seconds)
        self._progress.stage(f"heal {planned.id}")
        steps = self._steps.get(planned.id, self._options.heal_steps)
        with placed(gm, self._device):
            healing = heal_together(
                gm,
                self._pool,
                processes=self._options.processes,
                seconds=planned_seconds if steps is None else math.inf,
                max_steps=steps,
                seed=self._options.seed,
                batch=self._options.heal_batch,
                keep_window=planned.in_order,
                pieces=self._options.accumulate,
                fixed_batch=self._subject.fixed_batch,
                on_note=lambda told: self._progress.note(f"{planned.id}: {told}"),
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
            first_loss=healing.start_loss,
            last_loss=healing.best_loss,
            cut=pruned,
            steps_asked=steps,
            kept=healing.kept,
        )


def focused(plans: Sequence[Planned], options: ConvertOptions) -> list[Planned]:
    """The plan that aims just at the asked speed-up, if one was asked for, and its pruned rivals."""
    if options.min_speedup is None:
        return []
    enough = [planned.target for planned in plans if planned.target >= options.min_speedup]
    return [planned for planned in plans if planned.target == min(enough)] if enough else []


def shares(order: Sequence[Planned], focus: Sequence[Planned]) -> list[float]:
    """Weight of each plan in the healing time, in the given order; those in ``focus`` get alike."""
    wanted = sum(planned in focus for planned in order)
    if not 0 < wanted < len(order):
        return [1.0] * len(order)
    rest = (1 - FOCUS_SHARE) / (len(order) - wanted)
    return [FOCUS_SHARE / wanted if planned in focus else rest for planned in order]
