"""The methods by name: each gives variants of a task's network, fitted as it may be and not yet healed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeVar

from torch import fx

from peers.context import Context
from peers.methods.cp import SHARES as CP_SHARES
from peers.methods.cp import cp
from peers.methods.fitted import decomposed
from peers.methods.ours import fitted_variants, pruned_variants, random_variants
from peers.methods.prune import RATIOS, pruned
from peers.methods.separable import MULTIPLIERS, separable
from peers.methods.tucker import SHARES as TUCKER_SHARES
from peers.methods.tucker import tucker

METHODS = {
    "asl": "our conversion, every plan of its frontier",
    "asl-int8": "the same variants in 8 bits, after healing",
    "asl-prune": "what `--allow prune` adds: plans that lose channels too, and the original merely pruned",
    "int8": "the original in 8 bits, which is not healed",
    "separable": "every 3x3 as M depthwise 3x3 a channel and a 1x1, least squares on calibration data",
    "tucker": "every 3x3 by Tucker-2 to a share of its channels, the last 1x1 by least squares likewise",
    "cp": "every 3x3 by CP to R rows over the larger number of channels, the last 1x1 likewise",
    "prune-l2": "torch-pruning, a share of all channels by the L2 norm of their weights",
    "prune-taylor": "torch-pruning, a share of all channels by Taylor importance with the task's own loss",
    "scratch": "our students of the same plans from random weights",
}
"""What each is, for the page."""

RUNNABLE = tuple(name for name in METHODS if name != "asl-int8")
"""``asl-int8`` comes with ``asl``, of whose healed variants it is made."""

Item = TypeVar("Item")
Variants = Iterator[tuple[str, fx.GraphModule]]


def few(values: Sequence[Item], points: int | None) -> list[Item]:
    """``points`` of ``values`` at most, spread evenly; a single one is the first: methods begin with their fastest."""
    if points is None or points >= len(values):
        return list(values)
    if points == 1:
        return [values[0]]
    return [values[round(i * (len(values) - 1) / (points - 1))] for i in range(points)]


def variants(method: str, context: Context) -> Variants:
    """The variants of ``method`` with their points' names; none of ``int8``, which is made of the original itself."""
    task, settings = context.task, context.settings
    gm, sites, batches = context.subject.gm, context.subject.sites, context.batches
    if method == "asl":
        # The whole frontier, but in a quick run.
        yield from fitted_variants(context, few(context.plans(), settings.points if settings.quick else None))
    elif method == "asl-prune":
        # Without the plans the cuts would not know what they are rivals of.
        context.plans()
        yield from pruned_variants(context, few(context.pruned_plans(), settings.points if settings.quick else None))
    elif method == "scratch":
        yield from random_variants(context, few(context.plans(), settings.points))
    elif method == "separable":
        for count in few(MULTIPLIERS, settings.points):
            how = partial(separable, multiplier=count)
            yield f"M={count}", decomposed(gm, sites, batches, how)
    elif method == "tucker":
        for share in few(TUCKER_SHARES, settings.points):
            yield f"{share:.0%}", decomposed(gm, sites, batches, partial(tucker, share=share))
    elif method == "cp":
        for share in few(CP_SHARES, settings.points):
            yield f"R={share:g}", decomposed(gm, sites, batches, partial(cp, share=share))
    elif method in ("prune-l2", "prune-taylor"):
        by = "magnitude" if method == "prune-l2" else "taylor"
        for ratio in few(RATIOS, settings.points):
            yield f"-{ratio:.0%}", pruned(task, context.calibrate, ratio=ratio, by=by)
