"""The Active Shift Layer as modules: alone, and with the 1x1 convolution that mixes its rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aslconvert.kernels.ops import active_shift, shift_pointwise
from aslconvert.kernels.training import mix_shifted


class _Shifted(nn.Module):
    """What the layers share: the shift parameter, where its rows read, and how integer mode rounds it."""

    shift: nn.Parameter
    source: Tensor | None

    def __init__(
        self,
        shift: Tensor,
        *,
        source: Tensor | None = None,
        stride: Sequence[int] | None = None,
        delta: Sequence[int] | None = None,
        integer: bool = False,
    ) -> None:
        super().__init__()
        axes = shift.shape[1]
        self.shift = nn.Parameter(shift.detach().clone())
        self.register_buffer("source", None if source is None else source.detach().clone())
        self.stride = tuple(stride or [1] * axes)
        self.delta = tuple([-1] * axes if delta is None else delta)
        self.integer = integer

    def used_shift(self) -> Tensor:
        """[K, D], the offsets that the layer samples at: the parameter, or its rounded values in integer mode.

        Rounding has no slope, so integer mode passes the gradient straight through to the parameter (Bengio et al.,
        2013). What it passes is the central difference at the rounded position, half of what one pixel more and one
        pixel less would change: the best that can be told of a step the forward pass can make only as a whole.
        """
        if not self.integer:
            return self.shift
        if not (self.shift.requires_grad and torch.is_grad_enabled()):
            return self.shift.round()
        # The difference is exactly zero: the sum is a whole number, which `shift + (rounded - shift)` need not be.
        return self.shift.detach().round() + (self.shift - self.shift.detach())

    @torch.no_grad()
    def freeze(self) -> None:
        """Ends the training of the shift: from here it is a constant, and in integer mode one of whole numbers."""
        self.shift.copy_(self.used_shift())
        self.shift.requires_grad_(False)
        self.integer = False

    def extra_repr(self) -> str:
        mode = ", integer=True" if self.integer else ""
        return f"rows={self.shift.shape[0]}, stride={self.stride}, delta={self.delta}{mode}"


class ActiveShift(_Shifted):
    """Rows y[n, k] = x[n, source[k]] sampled at i * stride + shift[k] (Jeon & Kim, 2018, with a free source).

    Args:
        shift: [K, D] initial offsets in pixels; becomes a parameter.
        source: [K] int64 channel of each row, or None where row k reads channel k.
        stride: output step per axis; 1 by default.
        delta: output size per axis is (size + delta) // stride + 1; -1 by default.
        integer: sample at the rounded shift, a pure copy, while the parameter stays real and trains straight through
            the rounding (`used_shift`). A layer that was trained without it loses accuracy when it is rounded.
    """

    @classmethod
    def random(cls, channels: int, *, axes: int = 2, reach: float = 1.0) -> ActiveShift:
        """One row per channel with offsets drawn from Uniform(-reach, reach), the paper's start."""
        return cls(torch.empty(channels, axes).uniform_(-reach, reach))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, *spatial] to [N, K, *out]."""
        return active_shift(x, self.used_shift(), source=self.source, stride=self.stride, delta=self.delta)


class ShiftPointwise(_Shifted):
    """An Active Shift Layer and the 1x1 convolution of its rows: weight . shifted + bias.

    Trains as one step in channels_last (`mix_shifted`) and runs on the fused kernel where no gradient is asked for.

    Args:
        shift, source, stride, delta, integer: see `ActiveShift`.
        weight: [C_out, K]; becomes a parameter.
        bias: [C_out] or None; becomes a parameter.
        recompute: shift again in the backward pass instead of keeping the shifted rows.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        shift: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        source: Tensor | None = None,
        stride: Sequence[int] | None = None,
        delta: Sequence[int] | None = None,
        integer: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__(shift, source=source, stride=stride, delta=delta, integer=integer)
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.recompute = recompute

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, *spatial] to [N, C_out, *out]."""
        shift = self.used_shift()
        if torch.is_grad_enabled():
            return mix_shifted(
                x,
                shift,
                self.weight,
                self.bias,
                source=self.source,
                stride=self.stride,
                delta=self.delta,
                recompute=self.recompute,
            )
        return shift_pointwise(
            x, shift, self.weight, bias=self.bias, source=self.source, stride=self.stride, delta=self.delta
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, outputs={self.weight.shape[0]}, bias={self.bias is not None}"
