"""Centred second moments of a group's taps and targets, from their covariance matrix or from the samples themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments(ABC):
    """What a group's pursuit and its least squares need, in float64.

    cross [D, O], tap_mean [D], target_mean and target_variance [O]; ``count`` positions were read. A mixed tap (an
    atom, a row) is given by ``index`` [K, T], the taps that it mixes, and ``mix`` [K, T], their weights.
    """

    cross: Tensor
    tap_mean: Tensor
    target_mean: Tensor
    target_variance: Tensor
    count: int

    @property
    @abstractmethod
    def column_reads(self) -> int:
        """Numbers that are read to make one column."""

    @abstractmethod
    def own(self, taps: int) -> Tensor:
        """The covariance [C, T, T] of every channel's ``taps`` taps."""

    @abstractmethod
    def columns(self, index: Tensor, mix: Tensor) -> Tensor:
        """The covariance [D, K] of all taps with mixed ones."""

    @abstractmethod
    def among(self, index: Tensor, mix: Tensor) -> Tensor:
        """The covariance [K, K] of mixed taps."""


@dataclass(frozen=True)
class GramMoments(Moments):
    """Moments with the taps' covariance [D, D]."""

    covariance: Tensor

    @property
    def column_reads(self) -> int:
        """Numbers that are read to make one column."""
        return len(self.covariance)

    def own(self, taps: int) -> Tensor:
        """The covariance [C, T, T] of every channel's ``taps`` taps."""
        channels = len(self.covariance) // taps
        blocks = self.covariance.view(channels, taps, channels, taps)
        return torch.diagonal(blocks, dim1=0, dim2=2).permute(2, 0, 1)

    def columns(self, index: Tensor, mix: Tensor) -> Tensor:
        """The covariance [D, K] of all taps with mixed ones."""
        # Rows instead of columns, which are the same and lie together.
        gathered = self.covariance[index.flatten()].view(*index.shape, -1)
        return torch.einsum("kt,ktd->dk", mix, gathered)

    def among(self, index: Tensor, mix: Tensor) -> Tensor:
        """The covariance [K, K] of mixed taps."""
        half = self.columns(index, mix)[index.flatten()].view(*index.shape, -1)
        return torch.einsum("kt,ktj->jk", mix, half)


@dataclass(frozen=True)
class SampleMoments(Moments):
    """Moments with the centred ``taps`` themselves, in parts [D, n]: less than their covariance where D is large."""

    taps: Sequence[Tensor]

    @property
    def column_reads(self) -> int:
        """Numbers that are read to make one column."""
        return self.count * len(self.tap_mean)

    def own(self, taps: int) -> Tensor:
        """The covariance [C, T, T] of every channel's ``taps`` taps."""
        parts = (part.view(-1, taps, part.shape[1]) for part in self.taps)
        return self._mean(part @ part.mT for part in parts)

    def columns(self, index: Tensor, mix: Tensor) -> Tensor:
        """The covariance [D, K] of all taps with mixed ones."""
        return self._mean(part @ mixed(part, index, mix).T for part in self.taps)

    def among(self, index: Tensor, mix: Tensor) -> Tensor:
        """The covariance [K, K] of mixed taps."""
        rows = (mixed(part, index, mix) for part in self.taps)
        return self._mean(part @ part.T for part in rows)

    def _mean(self, products: Iterable[Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for product in products:
            total = total + product.double()
        return total / self.count


def mixed(taps: Tensor, index: Tensor, mix: Tensor) -> Tensor:
    """Mixed taps [K, n] of taps [D, n]."""
    weights = mix.to(taps)
    rows = weights[:, :1] * taps[index[:, 0]]
    for tap in range(1, index.shape[1]):
        rows.addcmul_(weights[:, tap, None], taps[index[:, tap]])
    return rows
