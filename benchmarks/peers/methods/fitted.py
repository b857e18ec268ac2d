"""Decomposes every 3x3 convolution in the order of the graph and fits what mixes its last rows to calibration data.

All decompositions get the fit that our own form gets: the target is the original's output, the input what the network
decomposed so far makes of the same batch, so that each site absorbs the error made upstream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, fx

from aslconvert.converter.fit.walk import DEFAULT_LIMIT_BYTES, TwinWalk
from aslconvert.converter.ir.graph import attribute
from aslconvert.converter.ir.site import ConvSite
from peers.methods.chains import Chain, is_cheaper, run_chain, with_chains, with_last
from peers.sites import spatial_sites

RIDGE = 1e-6
"""Relative to the mean variance of the rows, as in our own fit."""

POSITION_STRIDE = 5
"""One position in so many is read: neighbours tell much the same. No side of a usual map is a multiple of it."""

Decompose = Callable[[Tensor, Tensor | None, ConvSite], Chain]
"""(weight [O, C, 3, 3], bias [O], site) -> a chain whose last stage is 1x1"""


def decomposed(
    gm: fx.GraphModule,
    sites: Sequence[ConvSite],
    batches: Sequence[tuple[Tensor, ...]],
    decompose: Decompose,
) -> fx.GraphModule:
    """``gm`` with a fitted chain at every 3x3 site where that takes fewer multiply-adds."""
    chains: dict[str, Chain] = {}
    walk = TwinWalk(gm, batches, limit_bytes=DEFAULT_LIMIT_BYTES)

    def visitor(site: ConvSite) -> Callable[[fx.Node], Callable[[Tensor], Tensor] | None]:
        def visit(node: fx.Node) -> Callable[[Tensor], Tensor] | None:
            weight = attribute(gm, site.weight_target).detach()
            bias = None if site.bias_target is None else attribute(gm, site.bias_target).detach()
            chain = decompose(weight, bias, site)
            if not is_cheaper(chain, site):
                return None
            chains[site.name] = chain = refitted(chain, walk.pairs(node))
            return lambda x: run_chain(chain, x)

        return visit

    chosen = spatial_sites(sites)
    walk.run({site.node: visitor(site) for site in chosen})
    return with_chains(gm, chains, chosen)


def refitted(chain: Chain, pairs: Iterable[tuple[Tensor, Tensor]]) -> Chain:
    """The chain whose last 1x1 stage has the weights and bias that bring it closest to y, over ``pairs`` of (x, y).

    Least squares: [W b] = E[y s'^T] (E[s s'^T] + ridge)^-1 with s the last stage's input and a one.
    """
    gram = cross = None
    for x, y in pairs:
        rows = _positions(run_chain(chain[:-1], x))
        rows = torch.cat([rows, torch.ones(1, rows.shape[1])]).double()
        target = _positions(y).double()
        gram = rows @ rows.T if gram is None else gram + rows @ rows.T
        cross = target @ rows.T if cross is None else cross + target @ rows.T
    if gram is None or cross is None:
        return chain
    ridge = RIDGE * gram.diagonal()[:-1].mean().clamp_min(1e-12)
    damping = torch.full((len(gram),), float(ridge), dtype=gram.dtype)
    damping[-1] = 0
    # Towards the decomposition's own weights, so that rows that the data says nothing about keep them.
    last = chain[-1]
    start = torch.zeros_like(cross)
    start[:, :-1] = last.weight.flatten(1).double()
    if last.bias is not None:
        start[:, -1] = last.bias.double()
    solved = torch.linalg.solve(gram + damping.diag(), cross + start * damping, left=False).float()
    if not torch.isfinite(solved).all():
        return chain
    return with_last(chain, solved[:, :-1].contiguous(), solved[:, -1].contiguous())


def _positions(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [C, positions], one position in ``POSITION_STRIDE``."""
    return x.transpose(0, 1).flatten(1)[:, ::POSITION_STRIDE]
