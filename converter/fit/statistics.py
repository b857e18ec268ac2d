"""Streaming second moments of a site's input taps and its target: all that the fit needs to know of the data."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from aslconvert.converter.ir.site import Geometry


THIN_ABOVE = 4096
"""Batches of fewer positions are read whole: nothing is gained by leaving some out."""


def gather_taps(x: Tensor, geometry: Geometry) -> Tensor:
    """Taps [C * T, N * positions] of x [N, C, *spatial] under every output position, channel-major, zero outside.

    Row c * T + t is the input that tap t of the kernel would read of channel c.
    """
    pads = zip(geometry.padding_before[::-1], geometry.padding_after[::-1], strict=True)
    padded = functional.pad(x, [size for pair in pads for size in pair])
    out = geometry.output_size(tuple(x.shape[2:]))
    taps = x.new_empty(x.shape[1], geometry.taps, x.shape[0], *out)
    positions = itertools.product(*(range(size) for size in geometry.kernel))
    for index, position in enumerate(positions):
        window = [slice(None), slice(None)]
        for tap, step, stride, size in zip(position, geometry.dilation, geometry.stride, out, strict=True):
            window.append(slice(tap * step, tap * step + (size - 1) * stride + 1, stride))
        taps[:, index] = padded[tuple(window)].transpose(0, 1)
    return taps.view(x.shape[1] * geometry.taps, -1)


@dataclass(frozen=True)
class Moments:
    """Centred moments of one group: what its pursuit and its least squares need.

    covariance [D, D], cross [D, O], tap_mean [D], target_mean and target_variance [O]; ``count`` positions were read.
    """

    covariance: Tensor
    cross: Tensor
    tap_mean: Tensor
    target_mean: Tensor
    target_variance: Tensor
    count: int


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
        taps = gather_taps(x, self.geometry)
        self.channels = x.shape[1]
        target = y.transpose(0, 1).flatten(1)
        if taps.shape[1] != target.shape[1]:
            raise ValueError(f"{taps.shape[1]} positions of taps meet {target.shape[1]} of the target")
        if self._thin > 1 and target.shape[1] > THIN_ABOVE:
            first = self._batches % self._thin
            picked = torch.arange(first, target.shape[1], self._thin, device=taps.device)
            taps, target = taps[:, picked], target[:, picked]
        self._batches += 1
        taps, target = (part.reshape(self.groups, -1, part.shape[1]) for part in (taps, target))
        if taps.dtype == torch.bfloat16:
            taps, target = taps.float(), target.float()
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

    def moments(self, group: int = 0) -> Moments:
        """The moments of one group. Raises ValueError when no batch was added."""
        parts = (self._uu, self._uy, self._u, self._y, self._yy)
        uu, uy, u, y, yy = (self._filled(part)[group] / self.count for part in parts)
        return Moments(uu - torch.outer(u, u), uy - torch.outer(u, y), u, y, yy - y.square(), self.count)

    def _filled(self, value: Tensor | None) -> Tensor:
        if value is None:
            raise ValueError("no batch was added to these statistics")
        return value
