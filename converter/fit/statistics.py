"""Streaming second moments of a site's input taps and its target: all that the fit needs to know of the data."""

from __future__ import annotations

import itertools
import math
import operator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from aslconvert.converter.fit.moments import GramMoments

if TYPE_CHECKING:
    from aslconvert.converter.ir.site import Geometry


THIN_ABOVE = 4096
"""Batches of fewer positions are read whole: nothing is gained by leaving some out."""


def gather_taps(x: Tensor, geometry: Geometry, picked: Tensor | None = None) -> Tensor:
    """Taps [C * T, positions] of x [N, C, *spatial], channel-major, zero outside.

    Row c * T + t is the input that tap t of the kernel would read of channel c under each output position; all
    positions are numbered through the batch, ``picked`` (int64) are those that are read, by default all.
    """
    pads = zip(geometry.padding_before[::-1], geometry.padding_after[::-1], strict=True)
    padded = functional.pad(x, [size for pair in pads for size in pair])
    out = geometry.output_size(tuple(x.shape[2:]))
    if picked is None:
        picked = torch.arange(len(x) * math.prod(out), device=x.device)
    span = list(itertools.accumulate(padded.shape[:1:-1], operator.mul, initial=1))[::-1]
    start, rest = torch.zeros_like(picked), picked
    for size, stride, unit in zip(out[::-1], geometry.stride[::-1], span[:0:-1], strict=True):
        start += rest % size * (stride * unit)
        rest = rest // size
    start += rest * span[0]
    flat = padded.transpose(0, 1).reshape(x.shape[1], -1)
    taps = x.new_empty(x.shape[1], geometry.taps, len(picked))
    for index, position in enumerate(itertools.product(*(range(size) for size in geometry.kernel))):
        offset = sum(tap * step * unit for tap, step, unit in zip(position, geometry.dilation, span[1:], strict=True))
        taps[:, index] = flat.index_select(1, start + offset)
    return taps.view(x.shape[1] * geometry.taps, -1)


def count_positions(x: Tensor, y: Tensor, geometry: Geometry) -> int:
    """Output positions of a batch. Raises ValueError where the input x and the target y do not agree on them."""
    taps, target = len(x) * math.prod(geometry.output_size(tuple(x.shape[2:]))), len(y) * math.prod(y.shape[2:])
    if taps != target:
        raise ValueError(f"{taps} positions of taps meet {target} of the target")
    return taps


def pick_positions(count: int, *, batch: int, step: int) -> Tensor:
    """One in ``step`` of ``count`` positions, in order; successive batches of equal size read all of them in turn.

    At random, since a fixed distance would pick columns in images of some widths, the padded border among them.
    """
    if step == 1:
        return torch.arange(count)
    turn, number = divmod(batch, step)
    return torch.randperm(count, generator=torch.Generator().manual_seed(turn))[number % count :: step].sort().values


def read_positions(x: Tensor, y: Tensor, geometry: Geometry, picked: Tensor, *, groups: int) -> tuple[Tensor, Tensor]:
    """Taps [groups, D, n] and targets [groups, O, n] at n positions; in float32 at least."""
    picked = picked.to(x.device)
    taps = gather_taps(x, geometry, picked)
    target = y.transpose(0, 1).flatten(1)[:, picked]
    if taps.dtype in (torch.bfloat16, torch.float16):
        taps, target = taps.float(), target.float()
    return taps.view(groups, -1, len(picked)), target.view(groups, -1, len(picked))


class TapStatistics:
    """Centred moments of taps u in R^D (D = C * T) and targets y in R^O, accumulated batch by batch.

    Memory is D^2 + D * O numbers, whatever the number of samples; with ``groups`` g, where the outputs of a group read
    only its own taps, a g-th of that. Sums are kept in float64: the pursuit subtracts nearly equal numbers. With
    ``position_stride`` s only one position in s is read, another one in every batch: neighbours tell much the same, and
    the products over positions are most of the cost.
    """

    def __init__(self, geometry: Geometry, *, position_stride: int = 1, groups: int = 1) -> None:
        self.geometry = geometry
        self.groups = groups
        self._thin = position_stride
        self._batches = 0
        self.count = 0
        self.channels = 0
        self._uu: Tensor | None = None
        self._uy: Tensor | None = None
        self._yy: Tensor | None = None
        self._u: Tensor | None = None
        self._y: Tensor | None = None

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch: x [N, C, *spatial] the input the student will see, y [N, O, *out] the teacher's output."""
        positions = count_positions(x, y, self.geometry)
        self.channels = x.shape[1]
        thin = self._thin if positions > THIN_ABOVE else 1
        picked = pick_positions(positions, batch=self._batches, step=thin)
        taps, target = read_positions(x, y, self.geometry, picked, groups=self.groups)
        self._batches += 1
        uu, uy = (taps @ taps.mT).double(), (taps @ target.mT).double()
        u, y_sum = taps.sum(2, dtype=torch.float64), target.sum(2, dtype=torch.float64)
        yy = target.double().square().sum(2)
        self.count += taps.shape[2]
        if self._uu is None or self._uy is None or self._u is None or self._y is None or self._yy is None:
            self._uu, self._uy, self._u, self._y, self._yy = uu, uy, u, y_sum, yy
            return
        self._uu += uu
        self._uy += uy
        self._u += u
        self._y += y_sum
        self._yy += yy

    def moments(self, group: int = 0) -> GramMoments:
        """The moments of one group. Raises ValueError when no batch was added."""
        parts = (self._uu, self._uy, self._u, self._y, self._yy)
        uu, uy, u, y, yy = (self._filled(part)[group] / self.count for part in parts)
        return GramMoments(
            cross=uy - torch.outer(u, y),
            tap_mean=u,
            target_mean=y,
            target_variance=yy - y.square(),
            count=self.count,
            covariance=uu - torch.outer(u, u),
        )

    def _filled(self, value: Tensor | None) -> Tensor:
        if value is None:
            raise ValueError("no batch was added to these statistics")
        return value
