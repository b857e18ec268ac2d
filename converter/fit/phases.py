"""The outputs of a transposed convolution as phases of a gathering one, and back.

With stride s, output channel c at position q s + r is channel (c, r) of the block at position q.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from torch import Tensor

from aslconvert.converter.ir.site import ConvSite


def gather_weight(site: ConvSite, weight: Tensor) -> Tensor:
    """W [C, C_out / g, *kernel] of a transposed site as [C_out * phases, C / g, *gather.kernel]; else ``weight``."""
    if not site.transposed:
        return weight
    geometry, span = site.geometry, site.gather
    inputs, outputs, groups = site.in_channels // site.groups, site.out_channels // site.groups, site.groups
    by_group = weight.detach().reshape(groups, inputs, outputs, *geometry.kernel).transpose(1, 2)
    gathered = weight.new_zeros(groups, outputs, math.prod(site.phases), inputs, *span.kernel)
    for phase, position in enumerate(itertools.product(*(range(s) for s in site.phases))):
        for tap in itertools.product(*(range(k) for k in geometry.kernel)):
            each = zip(position, tap, geometry.padding_before, geometry.dilation, geometry.stride, strict=True)
            reads = [(r + p - t * d, s) for r, t, p, d, s in each]
            if all(read % s == 0 for read, s in reads):
                at = [read // s + before for (read, s), before in zip(reads, span.padding_before, strict=True)]
                here: tuple[Any, ...] = (slice(None), slice(None), phase, slice(None), *at)
                there: tuple[Any, ...] = (..., *tap)
                gathered[here] = by_group[there]
    return gathered.reshape(site.block_outputs, inputs, *span.kernel)


def gather_bias(site: ConvSite, bias: Tensor | None) -> Tensor | None:
    """[C_out] as [C_out * phases]."""
    return bias if bias is None else bias.detach().repeat_interleave(math.prod(site.phases))


def join_phases(site: ConvSite, y: Tensor) -> Tensor:
    """The block's output [N, C_out * phases, *q] as the site's [N, C_out, *out]."""
    if not site.transposed:
        return y
    axes = len(site.phases)
    y = _unflatten(y, 1, (site.out_channels, *site.phases)).permute(*phase_order(axes))
    for axis in range(axes + 1, 1, -1):
        y = y.flatten(2 * axis - 2, 2 * axis - 1)
    for axis, rest in enumerate(site.crop):
        y = y.narrow(axis + 2, 0, y.shape[axis + 2] - rest)
    return y


def phase_order(axes: int) -> list[int]:
    """The permutation [N, C, *s, *q] to [N, C, q, s, q, s, ...]."""
    return [0, 1, *(axis for d in range(axes) for axis in (2 + axes + d, 2 + d))]


def split_phases(site: ConvSite, y: Tensor) -> Tensor:
    """The site's output as the block's, without the positions where a crop leaves phases out."""
    if not site.transposed:
        return y
    for axis, step in enumerate(site.phases):
        whole = y.shape[axis + 2] // step
        y = _unflatten(y.narrow(axis + 2, 0, whole * step), axis + 2, (whole, step)).movedim(axis + 3, -1)
    axes = len(site.phases)
    # Phases stand behind the positions in the order of the axes: they belong before them.
    y = y.permute(0, 1, *range(2 + axes, 2 + 2 * axes), *range(2, 2 + axes))
    return y.flatten(1, 1 + axes)


def _unflatten(y: Tensor, axis: int, sizes: tuple[int, ...]) -> Tensor:
    return y.reshape(*y.shape[:axis], *sizes, *y.shape[axis + 1 :])
