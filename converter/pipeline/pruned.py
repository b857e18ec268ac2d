"""Variants that lose channels: which are worth making, by timing pruned stand-ins, and how they are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor, fx

from aslconvert.converter.errors import InternalError, ModelRefused
from aslconvert.converter.heal.held_out import probe_loss
from aslconvert.converter.heal.loop import BATCH
from aslconvert.converter.heal.pool import Pool
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.limits import limits_of
from aslconvert.converter.pipeline.plan_search import LEAST_GAIN, MARGIN, QUICK_ROUNDS
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.planning import DEFAULT_SPEEDUPS
from aslconvert.converter.pipeline.style import FUSED_STYLE, Style
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.timing import Timer
from aslconvert.converter.progress import Progress
from aslconvert.converter.prune.channels import PruningReport, prune_channels
from aslconvert.converter.prune.refit import refit
from aslconvert.converter.search.candidates import stand_in
from aslconvert.converter.search.plan import Plan

SHARES = tuple(step / 16 for step in range(1, 11))
"""Shares of each group's channels that may go."""

TRIALS = 3
"""Pruned stand-ins timed for one variant at most."""

SCORED_BATCHES = 4
"""Calibration batches that channels are scored on; one backward pass each."""

REFIT_BATCHES = 8
"""Calibration batches that weights are fitted on again: more are read for longer and tell little more."""


@dataclass(frozen=True)
class Cut:
    """A pruned graph before healing. ``refitted``: layers whose weights were fitted again, 0 where that did not help.

    ``loss`` and ``loss_refitted``: the distillation loss as pruned, and after the refit.
    """

    gm: fx.GraphModule
    report: PruningReport
    refitted: int
    loss: float
    loss_refitted: float


def pruned_plans(
    subject: Subject,
    plans: Sequence[Planned],
    timer: Timer,
    options: ConvertOptions,
    *,
    runtime: str,
    progress: Progress,
    style: Style = FUSED_STYLE,
    aims: Sequence[float] | None = None,
) -> tuple[list[Planned], dict[str, str]]:
    """For the speed-up of every plan a pruned variant of the next slower one, and the original merely pruned.

    Both kinds so meet their rivals at equal latency: whether to shift more sites or to cut channels of fewer shifted
    ones is decided by the loss. Where a wished-for speed-up is beyond all plans, the fastest plan and the original are
    pruned towards it. Each takes the smallest share whose stand-in measures the speed-up. ``aims``: these are wished
    for, instead of what the options wish. Also the reason for each variant that cannot be had, by id.
    """
    progress.stage("pruned plans")
    search = _Search(subject, timer, runtime, options, style)
    untouched = Planned("original", dict.fromkeys((site.name for site in subject.sites), None), 1.0, 1.0)
    pairs = _pairs(untouched, plans, options, aims)
    found: list[Planned] = []
    left_out: dict[str, str] = {}
    for number, (base, target) in enumerate(pairs):
        name = f"x{target:.2f}-pruned{'-only' if base is untouched else ''}"
        try:
            planned = search.towards(name, base, target)
        except (ModelRefused, InternalError) as error:
            left_out[name] = error.message
        else:
            if planned.expected == 0.0:
                left_out[name] = "It exceeds the limits on parameters or multiply-adds at every share that was tried."
            elif planned.expected >= min(target, base.expected * LEAST_GAIN) and planned.expected >= LEAST_GAIN:
                _add(found, planned)
            else:
                left_out[name] = (
                    f"Without {planned.prune:.0%} of the channels of the groups that allow it, it is "
                    f"{planned.expected:.2f} times as fast as the original, before that {base.expected:.2f} times."
                )
        progress.update(number + 1, len(pairs), "pruned plans")
    for name, reason in left_out.items():
        progress.note(f"{name} is left out: {reason}")
    return found, left_out


def _add(found: list[Planned], planned: Planned) -> None:
    """Of two that come out as the same network the one stays that aims higher, if it gets there."""
    twin = next((one for one in found if (one.plan, one.prune) == (planned.plan, planned.prune)), None)
    if twin is None:
        found.append(planned)
    elif planned.expected >= planned.target > twin.target:
        found[found.index(twin)] = planned


def _pairs(
    untouched: Planned, plans: Sequence[Planned], options: ConvertOptions, aims: Sequence[float] | None
) -> list[tuple[Planned, float]]:
    """What is to be pruned towards which speed-up, none twice."""
    ladder = [untouched, *sorted(plans, key=lambda planned: planned.target)]
    wishes = list(aims or ([options.min_speedup] if options.min_speedup else DEFAULT_SPEEDUPS))
    wanted = [planned.target for planned in plans] or wishes
    focus = options.min_speedup or sorted(wanted)[len(wanted) // 2]
    merely = min((target for target in wanted if target >= focus), default=max(wanted))
    beyond = sorted(target for target in wishes if target > ladder[-1].target)
    if aims is None:
        # What nobody asked for takes healing time from what was: the nearest and the furthest tell enough.
        beyond = [*beyond[:1], *beyond[1:][-1:]]
    pairs = [(base, planned.target) for base, planned in pairwise(ladder)]
    for base, target in [(untouched, merely), *((base, to) for to in beyond for base in (ladder[-1], untouched))]:
        if (base, target) not in pairs:
            pairs.append((base, target))
    return pairs


class _Search:
    def __init__(self, subject: Subject, timer: Timer, runtime: str, options: ConvertOptions, style: Style) -> None:
        self._style = style
        self._subject = subject
        self._timer = timer
        self._runtime = runtime
        self._seed = options.seed
        self._limits = limits_of(subject, options)
        self._sites: dict[str, ConvSite] = {site.name: site for site in subject.sites}
        self._timed: list[tuple[Plan, dict[int, float]]] = []

    def towards(self, name: str, base: Planned, target: float) -> Planned:
        """``base`` with the smallest share whose stand-in measures ``target``, or else with the fastest one tried."""
        goal = target * MARGIN
        # Time goes with the square of the channels that are left, as far as it goes with them at all.
        guess = 1 - (base.expected / goal) ** 0.5
        place = next((i for i, share in enumerate(SHARES) if share >= guess), len(SHARES) - 1)
        timed = next((timed for plan, timed in self._timed if plan == base.plan), {})
        self._timed.append((base.plan, timed))
        tried: set[int] = set()
        while 0 <= place < len(SHARES) and place not in tried and len(tried) < TRIALS:
            tried.add(place)
            if place not in timed:
                timed[place] = self._time(base.plan, SHARES[place])
            place += -1 if timed[place] >= goal else 1
        enough = [i for i, speedup in timed.items() if speedup >= goal]
        best = min(enough) if enough else max(timed, key=lambda i: timed[i])
        return replace(base, id=name, target=target, expected=timed[best], prune=SHARES[best], damage=None)

    def _time(self, plan: Plan, share: float) -> float:
        subject = self._subject
        blocks = {
            name: stand_in(self._sites[name], rows, seed=self._seed) for name, rows in plan.items() if rows is not None
        }
        gm = replace_sites(subject.gm, blocks) if blocks else subject.gm
        pruned, _ = prune_channels(gm, subject.example, ratio=share, seed=self._seed)
        if not self._limits.kept_by(pruned, subject):
            return 0.0  # not to be had, however fast it is: more has to go
        # What has no shifts may be at its best where the original is.
        lowered = self._style.files if blocks else (self._runtime,)
        return self._timer.speedup_of(pruned, self._runtime, rounds=QUICK_ROUNDS, lowered=lowered)


def cut(
    gm: fx.GraphModule,
    subject: Subject,
    batches: Sequence[tuple[Tensor, ...]],
    pool: Pool,
    *,
    share: float,
    seed: int,
    refitted: tuple[Mapping[str, Tensor], int, float, float] | None = None,
) -> Cut:
    """``gm`` (fitted, or the original) without the ``share`` of channels that its outputs miss least.

    Every layer is then fitted again to what it gave; that is kept only where the outputs come closer to ``pool``'s.
    ``refitted`` is what an interrupted run had from here: the tensors of the result, and the figures of its ``Cut``.

    Raises:
        ModelRefused, InternalError: no channel can go.
    """
    pruned, report = prune_channels(
        gm, subject.example, ratio=share, importance="output", batches=batches[:SCORED_BATCHES], seed=seed
    )
    if refitted is not None:
        tensors, layers, before, after = refitted
        pruned.load_state_dict(dict(tensors))
        return Cut(pruned, report, layers, before, after)
    batch = subject.fixed_batch or BATCH
    before = probe_loss(pruned, pool, batch=batch)
    again, layers = refit(pruned, gm, batches[:REFIT_BATCHES], report.outputs)
    after = probe_loss(again, pool, batch=batch)
    if not after < before:
        return Cut(pruned, report, 0, before, after)
    return Cut(again, report, layers, before, after)
