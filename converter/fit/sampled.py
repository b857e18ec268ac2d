"""The taps at a limited number of positions: the statistics of sites that are too wide for a covariance matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aslconvert.converter.fit.moments import SampleMoments
from aslconvert.converter.fit.statistics import count_positions, pick_positions, read_positions

if TYPE_CHECKING:
    from aslconvert.converter.ir.site import Geometry

SAMPLE_BYTES = 512 * 1024**2
"""Taps held at once; docs/fit.md has what fewer of them cost."""


class SampledTaps:
    """Taps u in R^D and targets y in R^O at positions drawn at random, about ``limit_bytes`` of them.

    Memory grows with D instead of D^2. Before the limit would be passed every second position is given up, and from
    then on twice as many are skipped. Nothing can be added once moments were taken.
    """

    def __init__(self, geometry: Geometry, *, groups: int = 1, limit_bytes: int = SAMPLE_BYTES) -> None:
        self.geometry = geometry
        self.groups = groups
        self.channels = 0
        self._limit = limit_bytes
        self._step = 1
        self._batches = 0
        self._taps: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._means: Tensor | None = None
        self._moments: dict[int, SampleMoments] = {}

    @property
    def count(self) -> int:
        """Positions that are held."""
        return sum(part.shape[2] for part in self._taps)

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add a batch: x [N, C, *spatial] the input the student will see, y [N, O, *out] the teacher's output."""
        if self._means is not None:
            raise ValueError("moments of these statistics were taken: they are complete")
        self.channels = x.shape[1]
        positions = count_positions(x, y, self.geometry)
        each = x.shape[1] * self.geometry.taps * max(x.element_size(), 4)
        # Before anything is gathered: a batch of large images alone may be many times the limit.
        while (self.count + positions // self._step) * each > self._limit and self._step < positions:
            self._halve()
        picked = pick_positions(positions, batch=self._batches, step=self._step)
        taps, target = read_positions(x, y, self.geometry, picked, groups=self.groups)
        self._batches += 1
        self._taps.append(taps)
        self._targets.append(target)

    def _halve(self) -> None:
        self._step *= 2
        for part, (taps, targets) in enumerate(zip(self._taps, self._targets, strict=True)):
            kept = pick_positions(taps.shape[2], batch=part + self._step, step=2)
            self._taps[part], self._targets[part] = taps[..., kept], targets[..., kept]

    def moments(self, group: int = 0) -> SampleMoments:
        """The moments of one group. Raises ValueError when no batch was added."""
        if not self._taps:
            raise ValueError("no batch was added to these statistics")
        if self._means is None:
            self._means = torch.stack([part.sum(2, dtype=torch.float64) for part in self._taps]).sum(0) / self.count
            for part in self._taps:
                part -= self._means.to(part)[..., None]
        if group not in self._moments:
            self._moments[group] = self._moments_of(group, self._means[group])
        return self._moments[group]

    def _moments_of(self, group: int, mean: Tensor) -> SampleMoments:
        taps, targets = [part[group] for part in self._taps], [part[group] for part in self._targets]
        total = torch.stack([part.sum(1, dtype=torch.float64) for part in targets]).sum(0)
        target_mean = total / self.count
        cross, variance = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for tap, target in zip(taps, targets, strict=True):
            centred = target - target_mean.to(target)[:, None]
            cross = cross + (tap @ centred.T).double()
            variance = variance + centred.double().square().sum(1)
        return SampleMoments(
            cross=cross / self.count,
            tap_mean=mean,
            target_mean=target_mean,
            target_variance=variance / self.count,
            count=self.count,
            taps=taps,
        )
