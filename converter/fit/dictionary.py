"""The atoms a row may be: one channel read at a shift on a grid, expressed as a mix of the kernel's taps."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from aslconvert.converter.ir.site import Geometry

HALF_PIXEL = 0.5
"""Default grid. Against whole pixels it takes a tenth off the error of a site; a quarter-pixel grid hardly more."""


@dataclass(frozen=True)
class Dictionary:
    """Atoms per channel: ``shift`` [A, D] in input pixels and ``mix`` [A, T], each atom's weights on the taps."""

    shift: Tensor
    mix: Tensor

    @property
    def size(self) -> int:
        """A, the atoms per channel."""
        return self.shift.shape[0]


def build_dictionary(geometry: Geometry, *, grid: float = HALF_PIXEL) -> Dictionary:
    """All shifts on a grid inside the kernel's window.

    Between two taps an atom is their linear interpolation, which is what the Active Shift Layer computes only if
    the taps are neighbouring pixels; along a dilated axis only the taps themselves are atoms.
    """
    axes = []
    for size, dilation, before in zip(geometry.kernel, geometry.dilation, geometry.padding_before, strict=True):
        steps = round((size - 1) / grid) if dilation == 1 else size - 1
        unit = grid if dilation == 1 else 1.0
        axis = []
        for i in range(steps + 1):
            at = i * unit
            low = min(int(at), size - 1)
            weights = torch.zeros(size, dtype=torch.float64)
            weights[low] = 1.0 - (at - low)
            if at > low:
                weights[low + 1] = at - low
            axis.append((at * dilation - before, weights))
        axes.append(axis)
    shifts, mixes = [], []
    for combination in product(*axes):
        shifts.append([at for at, _ in combination])
        mix = torch.ones(1, dtype=torch.float64)
        for _, weights in combination:
            mix = torch.outer(mix, weights).flatten()
        mixes.append(mix)
    return Dictionary(shift=torch.tensor(shifts, dtype=torch.float64), mix=torch.stack(mixes))
