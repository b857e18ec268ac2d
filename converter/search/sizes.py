"""What each candidate of a site holds and computes, and the limits that a plan must keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from aslconvert.converter.cost.counts import count_macs
from aslconvert.converter.ir.site import ConvSite


@dataclass(frozen=True)
class Size:
    """``bytes`` of parameters, and ``macs`` of one sample, counted as ``cost.counts`` does for a whole model."""

    bytes: float
    macs: float

    def within(self, limits: Size) -> bool:
        """Whether neither figure exceeds that of ``limits``."""
        return self.bytes <= limits.bytes and self.macs <= limits.macs


UNLIMITED = Size(math.inf, math.inf)

SizeOf = Callable[[int | None], Size]
"""The size of a site with so many rows; None is the kept convolution."""


def site_sizes(sites: Sequence[ConvSite], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, SizeOf]:
    """The sizes of each site's candidates, for inputs of ``shapes`` (``costs.input_shapes``).

    Tied sites hold their parameters once: all but the first of a key count none.
    """
    seen: set[str] = set()
    table: dict[str, SizeOf] = {}
    for site in sites:
        table[site.name] = partial(_size, site, shapes[site.name], again=site.key in seen)
        seen.add(site.key)
    return table


def rest_of(whole: Size, sites: Sequence[ConvSite], table: Mapping[str, SizeOf]) -> Size:
    """What a model of size ``whole`` has beside its sites.

    A weight that sites of several geometries share is there once. The table counts it for each of them, since each may
    be kept without the others: too much where several are, never too little.
    """
    once: dict[str, float] = {}
    for site in sites:
        once[site.weight_target] = max(once.get(site.weight_target, 0.0), table[site.name](None).bytes)
    return Size(whole.bytes - sum(once.values()), whole.macs - sum(table[site.name](None).macs for site in sites))


def _size(site: ConvSite, shape: tuple[int, ...], rows: int | None, *, again: bool) -> Size:
    each = site.dtype.itemsize
    if rows is None:
        # A transposed convolution works from its input's positions.
        spatial = shape[2:] if site.transposed else site.geometry.output_size(shape[2:])
        weights = site.in_channels // site.groups * site.out_channels * site.geometry.taps
        bias = site.out_channels if site.bias_target is not None else 0
        return Size(0 if again else (weights + bias) * each, weights * math.prod(spatial))
    axes, positions = len(site.geometry.kernel), math.prod(site.gather.output_size(shape[2:]))
    mixing = site.block_outputs * rows // site.row_groups
    # Shifts are coordinates: float32 at least.
    shifts = rows * axes * (8 if site.dtype == torch.float64 else 4)
    held = (mixing + site.block_outputs) * each + shifts
    return Size(0 if again else held, (mixing + rows * 2**axes) * positions)


def size_of(model: nn.Module, inputs: Sequence[Tensor]) -> Size:
    """The whole model's parameter bytes, and its multiply-adds for one sample of ``inputs``."""
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    return Size(held, count_macs(model, inputs) / max(inputs[0].shape[0], 1))
