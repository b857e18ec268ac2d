"""Fits every site of a plan in the order of the graph, each on the activations that the student so far produces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.fit.dictionary import build_dictionary
from aslconvert.converter.fit.phases import gather_bias, gather_weight, join_phases, split_phases
from aslconvert.converter.fit.rows import Block, all_taps, mix_rows
from aslconvert.converter.fit.sampled import SampledTaps
from aslconvert.converter.fit.solve import Statistics, fit_block
from aslconvert.converter.fit.statistics import TapStatistics
from aslconvert.converter.fit.walk import DEFAULT_LIMIT_BYTES, TwinWalk
from aslconvert.converter.ir.graph import attribute
from aslconvert.converter.ir.site import ConvSite

POSITION_STRIDE = 7
"""One position in seven is read: neighbours tell much the same."""

WIDE = 4096
"""Taps of a site beyond which it is fitted on samples: their covariance matrix would take 128 MB and more."""


@dataclass(frozen=True)
class SiteFit:
    """A fitted block and ``error``, the relative L2 error of the site's output ||y - y_teacher|| / ||y_teacher||
    (both centred) on the calibration data; 0 for the exact form."""

    block: Block
    error: float


def apply_block(block: Block, site: ConvSite, x: Tensor) -> Tensor:
    """The block's output [N, C_out, *out] for the site's input x [N, C, *spatial]."""
    block, gather = _as_type(block, x.dtype), site.gather
    if block.groups > 1:
        rows = torch.ops.asl.active_shift(x, block.shift, block.source, list(gather.stride), list(gather.delta))
        return join_phases(site, mix_rows(block, rows))
    out: Tensor = torch.ops.asl.shift_pointwise(
        x,
        block.shift,
        block.source,
        block.weight,
        block.bias,
        list(gather.stride),
        list(gather.delta),
        False,
    )
    return join_phases(site, out)


def _as_type(block: Block, dtype: torch.dtype) -> Block:
    # A low-precision site is fitted in float32 and applied in its own type.
    if block.weight.dtype == dtype:
        return block
    return replace(block, weight=block.weight.to(dtype), bias=None if block.bias is None else block.bias.to(dtype))


def exact_block(gm: fx.GraphModule, site: ConvSite) -> Block:
    """All taps of the site's own weights as rows: K = C * T, no error."""
    weight = gather_weight(site, attribute(gm, site.weight_target))
    bias = gather_bias(site, None if site.bias_target is None else attribute(gm, site.bias_target).detach())
    return all_taps(site.gather, weight, bias, groups=site.groups, row_groups=site.row_groups)


def fit_layerwise(
    gm: fx.GraphModule,
    sites: Sequence[ConvSite],
    rows: Mapping[str, int],
    batches: Sequence[tuple[Tensor, ...]],
    *,
    importance: Mapping[str, Tensor] | None = None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    in_order: bool = False,
    on_site: Callable[[str, int, int], None] | None = None,
) -> dict[str, SiteFit]:
    """Fit ``rows[name]`` rows at every named site; a site with K >= C * T keeps all its taps and is exact.

    The target of a site is the teacher's output, its input what the student makes of the same batch, so that each
    site absorbs the error made upstream. Memory: one site's moments plus at most ``limit_bytes`` of activations.
    ``importance`` gives per site a square root [O, O] of the output importance (see ``importance.py``). Sites that
    share a key (tied weights, loops) share one block, fitted beforehand on the original's activations of all calls.
    ``in_order``: every channel is read equally often (see ``rows_a_channel``).
    """
    chosen = [site for site in sites if site.name in rows]
    fits: dict[str, SiteFit] = {}
    by_key: dict[str, SiteFit] = {}
    by_key |= _fit_tied(gm, chosen, rows, batches, importance or {}, limit_bytes, in_order)
    walk = TwinWalk(gm, batches, limit_bytes=limit_bytes)

    def visitor(site: ConvSite) -> Callable[[fx.Node], Callable[[Tensor], Tensor]]:
        def visit(node: fx.Node) -> Callable[[Tensor], Tensor]:
            if site.key not in by_key:
                statistics = site_statistics(site)
                if not _is_exact(site, rows[site.name]):
                    collect(statistics, site, walk.pairs(node))
                weighting = (importance or {}).get(site.name)
                by_key[site.key] = _fit_site(gm, site, rows[site.name], statistics, weighting, in_order)
            fits[site.name] = by_key[site.key]
            if on_site is not None:
                on_site(site.name, len(fits), len(chosen))
            return lambda x: apply_block(fits[site.name].block, site, x)

        return visit

    walk.run({site.node: visitor(site) for site in chosen})
    return fits


def site_statistics(site: ConvSite) -> Statistics:
    """Empty statistics for the fit of ``site``."""
    # Where a crop leaves phases out, the last position has no whole target: it is not read.
    after = tuple(size - (rest > 0) for size, rest in zip(site.gather.padding_after, site.crop, strict=True))
    geometry = replace(site.gather, padding_after=after)
    if site.in_channels // site.row_groups * geometry.taps > WIDE:
        return SampledTaps(geometry, groups=site.row_groups)
    return TapStatistics(geometry, position_stride=POSITION_STRIDE, groups=site.row_groups)


def collect(statistics: Statistics, site: ConvSite, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Add batches of (the site's input, its wanted output)."""
    for x, y in pairs:
        statistics.update(x, split_phases(site, y))


def _is_exact(site: ConvSite, rows: int) -> bool:
    return rows >= site.exact_rows


def rows_a_channel(site: ConvSite, rows: int) -> int:
    """How often a form of ``rows`` rows that reads its channels in order reads each: so often the image is passed over
    in runtimes that know no shift, while any other choice of channels is a copy of them there."""
    return math.ceil(rows / site.in_channels)


def _fit_site(
    gm: fx.GraphModule,
    site: ConvSite,
    rows: int,
    statistics: Statistics,
    weighting: Tensor | None,
    in_order: bool,
) -> SiteFit:
    if _is_exact(site, rows):
        return SiteFit(block=exact_block(gm, site), error=0.0)
    dictionary = build_dictionary(site.gather)
    per_channel = rows_a_channel(site, rows) if in_order else None
    block, error = fit_block(statistics, dictionary, rows=rows, weighting=weighting, per_channel=per_channel)
    return SiteFit(block=block, error=error**0.5)


def _fit_tied(
    gm: fx.GraphModule,
    chosen: Sequence[ConvSite],
    rows: Mapping[str, int],
    batches: Sequence[tuple[Tensor, ...]],
    importance: Mapping[str, Tensor],
    limit_bytes: int,
    in_order: bool,
) -> dict[str, SiteFit]:
    calls: dict[str, list[ConvSite]] = {}
    for site in chosen:
        calls.setdefault(site.key, []).append(site)
    tied = {key: sites for key, sites in calls.items() if len(sites) > 1}
    if not tied:
        return {}
    gathered = {key: site_statistics(sites[0]) for key, sites in tied.items()}
    walk = TwinWalk(gm, batches, limit_bytes=limit_bytes)

    def visitor(statistics: Statistics, site: ConvSite) -> Callable[[fx.Node], None]:
        return lambda node: collect(statistics, site, walk.pairs(node))

    walk.run({site.node: visitor(gathered[key], site) for key, sites in tied.items() for site in sites})
    return {
        key: _fit_site(gm, sites[0], rows[sites[0].name], gathered[key], importance.get(sites[0].name), in_order)
        for key, sites in tied.items()
    }
