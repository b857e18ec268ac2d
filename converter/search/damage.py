"""How much the model's OUTPUT suffers when one site alone is rewritten with K rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from aslconvert.converter.data.metrics import flatten
from aslconvert.converter.fit.dictionary import build_dictionary
from aslconvert.converter.fit.layerwise import apply_block, collect, rows_a_channel, site_statistics
from aslconvert.converter.fit.pure import PureInterpreter
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.fit.solve import order_rows, solve_rows
from aslconvert.converter.fit.walk import DEFAULT_LIMIT_BYTES, TwinWalk
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.search.candidates import row_grid

Damage = dict[int, float]
"""Relative squared output error by rows; the exact form's is 0."""


def site_damage(
    gm: fx.GraphModule,
    sites: Sequence[ConvSite],
    batches: Sequence[tuple[Tensor, ...]],
    *,
    importance: Mapping[str, Tensor] | None = None,
    probed_share: float = math.inf,
    in_order: bool = False,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    on_site: Callable[[str, int, int], None] | None = None,
) -> dict[str, Damage]:
    """Fit each site alone on the original's activations and measure the output's error on the first batch.

    One pursuit serves all row counts of a site, as its prefixes are the smaller answers; where channels are read
    ``in_order``, each count has its own. Row counts between the probed ones are interpolated in log damage. Those of
    more than ``probed_share`` times the channels are not probed: the pursuit of the last rows takes most of the time.
    """
    tail = _Tail(gm, batches[0])
    probed: dict[str, Damage] = {}
    walk = TwinWalk(gm, batches, limit_bytes=limit_bytes)

    def visitor(site: ConvSite) -> Callable[[fx.Node], None]:
        def visit(node: fx.Node) -> None:
            whole = row_grid(site, probed=True, in_order=in_order)
            grid = [rows for rows in whole[:-1] if rows <= max(probed_share * site.in_channels, whole[0])] + whole[-1:]
            statistics = site_statistics(site)
            collect(statistics, site, walk.pairs(node))
            dictionary = build_dictionary(site.gather)
            weighting = None if importance is None else importance.get(site.name)
            most = max((rows for rows in grid[:-1]), default=0)
            found: Damage = {grid[-1]: 0.0}
            order = None
            for rows in grid[:-1]:
                if in_order or order is None:
                    count, each = (rows, rows_a_channel(site, rows)) if in_order else (most, None)
                    order = order_rows(statistics, dictionary, rows=count, weighting=weighting, per_channel=each)
                block, _ = solve_rows(statistics, dictionary, order, rows=rows)
                found[rows] = tail.error(site, node, block)
            probed[site.name] = found
            if on_site is not None:
                on_site(site.name, len(probed), len(sites))

        return visit

    walk.run({site.node: visitor(site) for site in sites})
    return {
        site.name: {rows: interpolate_log(probed[site.name], rows) for rows in row_grid(site, in_order=in_order)}
        for site in sites
    }


def interpolate_log(known: Mapping[int, float], at: int) -> float:
    """Piecewise linear in log damage; towards the exact form (damage 0) linear in damage."""
    points = sorted(known.items())
    if at <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if at <= x1:
            share = (at - x0) / (x1 - x0)
            if y0 <= 0 or y1 <= 0:
                return y0 + (y1 - y0) * share
            return math.exp(math.log(y0) + (math.log(y1) - math.log(y0)) * share)
    return points[-1][1]


class _Tail:
    """Reruns only what lies downstream of a site, with the site's output replaced."""

    def __init__(self, gm: fx.GraphModule, batch: tuple[Tensor, ...]) -> None:
        self._gm = gm
        self._batch = batch
        recorder = PureInterpreter(gm, garbage_collect_values=False)
        with torch.no_grad():
            self._reference = [o for o in flatten(recorder.run(*batch)) if o.is_floating_point()]
        self._values: dict[fx.Node, Any] = dict(recorder.env)

    def error(self, site: ConvSite, node: fx.Node, block: Block) -> float:
        """||out - reference||^2 / ||reference - mean||^2 over the float outputs."""
        dirty = {node}
        for other in self._gm.graph.nodes:
            if any(used in dirty for used in other.all_input_nodes):
                dirty.add(other)
        known = {other: value for other, value in self._values.items() if other not in dirty}
        source = node.args[0]
        if not isinstance(source, fx.Node):
            raise TypeError(f"the convolution {node.name} reads no node")
        with torch.no_grad():
            known[node] = apply_block(block, site, self._values[source])
            out = PureInterpreter(self._gm).run(*self._batch, initial_env=known)
        total = 0.0
        outputs = [o for o in flatten(out) if o.is_floating_point()]
        for got, want in zip(outputs, self._reference, strict=True):
            variance = float((want - want.mean()).square().mean().clamp_min(1e-20))
            total += float((got - want).square().mean()) / variance
        return total / max(len(outputs), 1)
