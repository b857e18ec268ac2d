"""Our own conversion, and the same students from random weights.

The steps are those of ``converter.pipeline.convert``: its survey, its plans, its fit and its rewriting. A conversion
writes the chosen variant alone; here every plan becomes a variant, healed for as long as any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn

from aslconvert.converter.fit.layerwise import fit_layerwise
from aslconvert.converter.heal.optimiser import shift_names
from aslconvert.converter.ir.graph import attribute
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.pruned import cut
from aslconvert.converter.search.candidates import stand_in
from peers.context import Context

SHIFT_RANGE = 1.0
"""Shifts of a random start are uniform in -1 .. 1 pixels, as the paper has them (NeurIPS 2018)."""


def fitted_variants(context: Context, plans: Sequence[Planned]) -> Iterator[tuple[str, fx.GraphModule]]:
    """Each plan fitted, by name."""
    subject, importance = context.subject, context.importance()
    for planned in plans:
        rows = {name: count for name, count in planned.plan.items() if count is not None}
        fits = fit_layerwise(
            subject.gm, subject.sites, rows, context.batches, importance=importance, in_order=planned.in_order
        )
        yield planned.id, replace_sites(subject.gm, {name: fit.block for name, fit in fits.items()})


def pruned_variants(context: Context, plans: Sequence[Planned]) -> Iterator[tuple[str, fx.GraphModule]]:
    """Each plan fitted, and then cut as its share says, by name."""
    # Plans come in the order of the ladder: several that are cut of one base share its fit.
    fitted: dict[tuple[tuple[str, int | None], ...], fx.GraphModule] = {}
    for planned in plans:
        key = tuple(planned.plan.items())
        if key not in fitted:
            fitted[key] = next(fitted_variants(context, [planned]))[1]
        made = cut(
            fitted[key],
            context.subject,
            context.batches,
            context.pool,
            share=planned.prune,
            seed=context.options.seed,
        )
        yield planned.id, made.gm


def random_variants(context: Context, plans: Sequence[Planned]) -> Iterator[tuple[str, fx.GraphModule]]:
    """The students of the same plans with nothing of the original's weights in them."""
    subject, seed = context.subject, context.options.seed
    sites = {site.name: site for site in subject.sites}
    for planned in plans:
        blocks = {
            name: stand_in(sites[name], count, seed=seed) for name, count in planned.plan.items() if count is not None
        }
        gm = replace_sites(subject.gm, blocks)
        randomise(gm, context.batches[0], seed=seed)
        yield planned.id, gm


def randomise(gm: fx.GraphModule, batch: tuple[Tensor, ...], *, seed: int) -> None:
    """Draws every parameter anew: orthogonal weights scaled to outputs of unit variance on ``batch``, no bias.

    Batch norms are folded, so that the start must keep the scale by itself. Source: Mishkin & Matas, "All You Need Is
    a Good Init", ICLR 2016.
    """
    generator = torch.Generator().manual_seed(seed)
    shifts = shift_names(gm)
    with torch.no_grad():
        for name, parameter in gm.named_parameters():
            if name in shifts:
                parameter.uniform_(-SHIFT_RANGE, SHIFT_RANGE, generator=generator)
            elif parameter.dim() > 1:
                nn.init.orthogonal_(parameter, generator=generator)
            else:
                parameter.zero_()
        _UnitVariance(gm).run(*batch)


class _UnitVariance(fx.Interpreter):
    """Runs the graph once and scales each layer's weight so that its output has a variance of one."""

    def run_node(self, n: fx.Node) -> object:
        """The node's value, after its weight was scaled where it has one."""
        value = super().run_node(n)
        weight = n.args[1] if len(n.args) > 1 else None
        mixes = n.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
        if mixes and isinstance(weight, fx.Node) and weight.op == "get_attr" and isinstance(value, Tensor):
            deviation = value.std()
            if deviation > 0:
                attribute(self.module, weight.target).div_(deviation)
                value = super().run_node(n)
        return value
