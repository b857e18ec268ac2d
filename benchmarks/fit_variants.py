"""The fit with one of its parts changed: what the engine has as an option is toggled, the rest is done here alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, fx

from aslconvert.converter.fit.dictionary import HALF_PIXEL, Dictionary, build_dictionary
from aslconvert.converter.fit.layerwise import apply_block, collect, site_statistics
from aslconvert.converter.fit.pursuit import Pursuit
from aslconvert.converter.fit.rows import Block, mix_rows
from aslconvert.converter.fit.solve import RIDGE, RIDGES, SCARCE, Statistics, order_rows, solve_rows
from aslconvert.converter.fit.walk import DEFAULT_LIMIT_BYTES, TwinWalk
from aslconvert.converter.ir.site import ConvSite

HELD_OUT = 4
"""One batch in so many judges a ridge."""

WEIGHT_RATE, SHIFT_RATE = 0.02, 0.01
"""Of a refinement's Adam: relative to the mean size of the weights, and in pixels."""

Pairs = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Batches of (the site's input, its wanted output), as often as they are asked for."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How sites are fitted; as it stands, as the engine does it."""

    grid: float = HALF_PIXEL
    reach: int = 0
    """Pixels that shifts may go beyond the kernel's window."""
    ridge: Literal["scarce", "fixed", "gcv", "held out"] = "scarce"
    """Validated where positions are scarce; never; always, by GCV; always, on batches of its own."""
    weighted: bool = True
    """Errors count by the outputs' importance."""
    student: bool = True
    """The site's input is the student's, else the teacher's."""
    in_order: bool = False
    """Every channel gives equally many rows."""
    correct_bias: bool = False
    match_variance: bool = False
    """As batch norms estimated anew would: mean and variance of every output channel become the teacher's."""
    refine_steps: int = 0
    """Of Adam on shifts and weights together, before the weights are solved for again."""


def fitted(
    gm: fx.GraphModule,
    sites: Sequence[ConvSite],
    rows: Mapping[str, int],
    batches: Sequence[tuple[Tensor, ...]],
    recipe: Recipe,
    *,
    importance: Mapping[str, Tensor],
) -> dict[str, Block]:
    """The block of every site named in ``rows``, fitted in the order of the graph."""
    blocks: dict[str, Block] = {}
    walk = TwinWalk(gm, batches, limit_bytes=DEFAULT_LIMIT_BYTES)

    def visitor(site: ConvSite) -> Callable[[fx.Node], Callable[[Tensor], Tensor]]:
        def visit(node: fx.Node) -> Callable[[Tensor], Tensor]:
            weighting = importance.get(site.name) if recipe.weighted else None
            block = _fit(site, rows[site.name], lambda: walk.pairs(node, student=recipe.student), recipe, weighting)
            if recipe.correct_bias or recipe.match_variance:
                block = corrected(block, site, lambda: walk.pairs(node), scale=recipe.match_variance)
            blocks[site.name] = block
            return lambda x: apply_block(block, site, x)

        return visit

    walk.run({site.node: visitor(site) for site in sites if site.name in rows})
    return blocks


def _fit(site: ConvSite, rows: int, pairs: Pairs, recipe: Recipe, weighting: Tensor | None) -> Block:
    wide = widened(site, recipe.reach)
    dictionary = build_dictionary(wide.gather, grid=recipe.grid)
    statistics = _gathered(wide, pairs())
    per_channel = -(-rows // site.in_channels) if recipe.in_order else None
    order = order_rows(statistics, dictionary, rows=rows, weighting=weighting, per_channel=per_channel)
    if recipe.ridge == "held out":
        ridge = held_out_ridge(wide, dictionary, order, rows, list(pairs()))
        block, _ = solve_rows(statistics, dictionary, order, rows=rows, ridge=ridge, scarce=0)
    else:
        scarce = {"scarce": SCARCE, "fixed": 0, "gcv": float("inf")}[recipe.ridge]
        block, _ = solve_rows(statistics, dictionary, order, rows=rows, scarce=scarce)
    if recipe.refine_steps:
        block = refined(block, site, list(pairs()), weighting, steps=recipe.refine_steps)
    return block


def widened(site: ConvSite, reach: int) -> ConvSite:
    """The site with ``reach`` more taps on every side: the same outputs, a larger window to choose rows from."""
    geometry = site.geometry
    return replace(
        site,
        geometry=replace(
            geometry,
            kernel=tuple(size + 2 * reach for size in geometry.kernel),
            padding_before=tuple(size + reach for size in geometry.padding_before),
            padding_after=tuple(size + reach for size in geometry.padding_after),
        ),
    )


def _gathered(site: ConvSite, pairs: Iterator[tuple[Tensor, Tensor]]) -> Statistics:
    statistics = site_statistics(site)
    collect(statistics, site, pairs)
    return statistics


def held_out_ridge(
    site: ConvSite, dictionary: Dictionary, order: Sequence[Pursuit], rows: int, pairs: Sequence[tuple[Tensor, Tensor]]
) -> float:
    """The ridge whose weights, solved for on the other batches, have the least error on every fourth."""
    seen = [pair for index, pair in enumerate(pairs) if index % HELD_OUT] or pairs
    statistics = _gathered(site, iter(seen))
    lost = {}
    for ridge in (RIDGE, *RIDGES):
        block, _ = solve_rows(statistics, dictionary, order, rows=rows, ridge=ridge, scarce=0)
        lost[ridge] = sum(float((apply_block(block, site, x) - y).square().sum()) for x, y in pairs[::HELD_OUT])
    return min(lost, key=lambda ridge: lost[ridge])


def corrected(block: Block, site: ConvSite, pairs: Pairs, *, scale: bool) -> Block:
    """The block whose outputs have the wanted mean in every channel, and with ``scale`` the wanted variance."""
    moments = torch.zeros(4, site.out_channels, dtype=torch.float64)
    count = 0
    for x, y in pairs():
        for index, value in enumerate((apply_block(block, site, x), y)):
            flat = value.transpose(0, 1).flatten(1).double()
            moments[2 * index : 2 * index + 2] += torch.stack([flat.sum(1), flat.square().sum(1)])
        count += flat.shape[1]
    mean, square, wanted_mean, wanted_square = moments / count
    gain = torch.ones_like(mean)
    if scale:
        variance, wanted = (square - mean.square()).clamp_min(0), (wanted_square - wanted_mean.square()).clamp_min(0)
        gain = torch.where(variance > 0, (wanted / variance.clamp_min(1e-30)).sqrt(), gain)
    bias = torch.zeros_like(mean) if block.bias is None else block.bias.double()
    return replace(
        block,
        weight=(block.weight * gain[:, None]).float(),
        bias=(gain * (bias - mean) + wanted_mean).float(),
    )


def refined(
    block: Block, site: ConvSite, pairs: Sequence[tuple[Tensor, Tensor]], weighting: Tensor | None, *, steps: int
) -> Block:
    """Shifts and weights moved together by Adam towards the wanted output, a batch a step; then least squares.

    weighting: square root [O, O] of the outputs' importance, as in the pursuit.
    """
    gather, source = site.gather, block.source
    root = None if weighting is None else weighting.float()
    shift, weight = (value.detach().clone().requires_grad_() for value in (block.shift, block.weight))
    bias = (torch.zeros(site.out_channels) if block.bias is None else block.bias.detach().clone()).requires_grad_()
    rate = WEIGHT_RATE * float(block.weight.abs().mean())
    optimiser = torch.optim.Adam([{"params": [weight, bias], "lr": rate}, {"params": [shift], "lr": SHIFT_RATE}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        x, y = pairs[step % len(pairs)]
        with torch.enable_grad():
            rows = torch.ops.asl.active_shift(x, shift, source, list(gather.stride), list(gather.delta))
            error = mix_rows(Block(source=source, shift=shift, weight=weight, bias=bias), rows) - y
            if root is not None:
                error = torch.einsum("op,no...->np...", root, error)
            loss = error.square().mean() / y.square().mean().clamp_min(1e-12)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return _solved(replace(block, shift=shift.detach()), site, pairs)


def _solved(block: Block, site: ConvSite, pairs: Sequence[tuple[Tensor, Tensor]]) -> Block:
    """The block with the weights and the bias of least squares for its shifts."""
    gather, width = site.gather, block.rows + 1
    gram = torch.zeros(width, width, dtype=torch.float64)
    cross = torch.zeros(width, site.out_channels, dtype=torch.float64)
    for x, y in pairs:
        rows = torch.ops.asl.active_shift(x, block.shift, block.source, list(gather.stride), list(gather.delta))
        flat = rows.transpose(0, 1).flatten(1)
        flat = torch.cat([flat, torch.ones(1, flat.shape[1])])
        gram += (flat @ flat.T).double()
        cross += (flat @ y.transpose(0, 1).flatten(1).T).double()
    damping = torch.full((width,), RIDGE * float(gram.diagonal()[:-1].mean()) + 1e-30, dtype=torch.float64)
    damping[-1] = 0
    solved = torch.linalg.solve(gram + damping.diag(), cross).float()
    return replace(block, weight=solved[:-1].T.contiguous(), bias=solved[-1].contiguous())
