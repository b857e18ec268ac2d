"""Streaming second moments of a site's input taps and its target: all that the fit needs to know of the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from aslconvert.converter.ir.site import Geometry


THIN_ABOVE = 4096
"""Batches of fewer positions are read whole: nothing is gained by leaving some out."""


def gather_taps(x: Tensor, geometry: Geometry) -> Tensor:
    """Taps [C * T, N * positions] of x [N, C, H, W] under every output position, channel-major, zero outside.

    Row c * T + t is the input that tap t of the kernel would read of channel c.
    """
    (top, left), (bottom, right) = geometry.padding_before, geometry.padding_after
    padded = functional.pad(x, (left, right, top, bottom))
    taps = functional.unfold(padded, geometry.kernel, dilation=geometry.dilation, stride=geometry.stride)
    return taps.transpose(0, 1).flatten(1)


class TapStatistics:
    """Centred moments of taps u in R^D (D = C * T) and targets y in R^O, accumulated batch by batch.

    Memory is D^2 + D * O numbers, whatever the number of samples. Sums are kept in float64: the pursuit
    subtracts nearly equal numbers. With ``position_stride`` s only one position in s is read, another one in every
    batch: neighbours tell much the same, and the products over positions are most of the cost.
    """

    def __init__(self, geometry: Geometry, *, position_stride: int = 1) -> None:
        self.geometry = geometry
        self._thin = position_stride
        self._batches = 0
        self.count = 0
        self._uu: Tensor | None = None
        self._uy: Tensor | None = None
        self._yy: Tensor | None = None
        self._u: Tensor | None = None
        self._y: Tensor | None = None

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch: x [N, C, H, W] the input the student will see, y [N, O, H', W'] the teacher's output."""
        taps = gather_taps(x, self.geometry)
        target = y.transpose(0, 1).flatten(1)
        if taps.shape[1] != target.shape[1]:
            raise ValueError(f"{taps.shape[1]} positions of taps meet {target.shape[1]} of the target")
        if self._thin > 1 and target.shape[1] > THIN_ABOVE:
            first = self._batches % self._thin
            picked = torch.arange(first, target.shape[1], self._thin, device=taps.device)
            taps, target = taps[:, picked], target[:, picked]
        self._batches += 1
        uu, uy = (taps @ taps.T).double(), (taps @ target.T).double()
        u, y_sum = taps.sum(1, dtype=torch.float64), target.sum(1, dtype=torch.float64)
        yy = target.double().square().sum(1)
        self.count += taps.shape[1]
        if self._uu is None or self._uy is None or self._u is None or self._y is None or self._yy is None:
            self._uu, self._uy, self._u, self._y, self._yy = uu, uy, u, y_sum, yy
            return
        self._uu += uu
        self._uy += uy
        self._u += u
        self._y += y_sum
        self._yy += yy

    @property
    def tap_mean(self) -> Tensor:
        """E[u], [D]."""
        return self._filled(self._u) / self.count

    @property
    def target_mean(self) -> Tensor:
        """E[y], [O]."""
        return self._filled(self._y) / self.count

    @property
    def covariance(self) -> Tensor:
        """Cov(u, u), [D, D]."""
        mean = self.tap_mean
        return self._filled(self._uu) / self.count - torch.outer(mean, mean)

    @property
    def cross(self) -> Tensor:
        """Cov(u, y), [D, O]."""
        return self._filled(self._uy) / self.count - torch.outer(self.tap_mean, self.target_mean)

    @property
    def target_variance(self) -> Tensor:
        """Var(y) per output channel, [O]."""
        return self._filled(self._yy) / self.count - self.target_mean.square()

    def _filled(self, value: Tensor | None) -> Tensor:
        if value is None:
            raise ValueError("no batch was added to these statistics")
        return value
