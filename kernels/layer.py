"""The Active Shift Layer as a module: every row samples one channel at a learned, real-valued offset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aslconvert.kernels.ops import active_shift


class ActiveShift(nn.Module):
    """Rows y[n, k] = x[n, source[k]] sampled at i * stride + shift[k] (Jeon & Kim, 2018, with a free source).

    Args:
        shift: [K, D] initial offsets in pixels; becomes a parameter.
        source: [K] int64 channel of each row, or None where row k reads channel k.
        stride: output step per axis; 1 by default.
        delta: output size per axis is (size + delta) // stride + 1; -1 by default.
    """

    shift: nn.Parameter
    source: Tensor | None

    def __init__(
        self,
        shift: Tensor,
        *,
        source: Tensor | None = None,
        stride: Sequence[int] | None = None,
        delta: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        axes = shift.shape[1]
        self.shift = nn.Parameter(shift.detach().clone())
        self.register_buffer("source", None if source is None else source.detach().clone())
        self.stride = tuple(stride or [1] * axes)
        self.delta = tuple([-1] * axes if delta is None else delta)

    @classmethod
    def random(cls, channels: int, *, axes: int = 2, reach: float = 1.0) -> ActiveShift:
        """One row per channel with offsets drawn from Uniform(-reach, reach), the paper's start."""
        return cls(torch.empty(channels, axes).uniform_(-reach, reach))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, *spatial] to [N, K, *out]."""
        return active_shift(x, self.shift, source=self.source, stride=self.stride, delta=self.delta)

    def extra_repr(self) -> str:
        return f"rows={self.shift.shape[0]}, stride={self.stride}, delta={self.delta}"
