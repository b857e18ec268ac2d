"""The converted form of one conv site: K shifted rows and the 1x1 weights that mix them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from aslconvert.converter.ir.site import Geometry


@dataclass(frozen=True)
class Block:
    """y = weight . S(x) + bias, where row k of S(x) is channel ``source[k]`` of x sampled at ``i * stride + shift[k]``.

    source: int64 [K]; shift: [K, D] in input pixels; weight: [C_out, K]; bias: [C_out] or None.
    """

    source: Tensor
    shift: Tensor
    weight: Tensor
    bias: Tensor | None

    def __post_init__(self) -> None:
        k = self.source.numel()
        if self.shift.shape[0] != k or self.weight.shape[1] != k:
            raise ValueError(
                f"a block of {k} rows got shifts {tuple(self.shift.shape)} and weights {tuple(self.weight.shape)}"
            )

    @property
    def rows(self) -> int:
        """K, the number of shifted rows."""
        return self.source.numel()


def all_taps(geometry: Geometry, weight: Tensor, bias: Tensor | None) -> Block:
    """Every tap of every channel as a row: the original convolution exactly.

    weight: [C_out, C_in, *kernel]. The block has K = C_in * T rows with integer shifts, channel-major.
    Source: a convolution is the sum over its taps of a shift followed by a 1x1 convolution (NeurIPS 2018, eq. 1).
    """
    offsets = geometry.tap_offsets().to(weight.dtype)
    channels, taps = weight.shape[1], offsets.shape[0]
    source = torch.arange(channels, device=weight.device).repeat_interleave(taps)
    shift = offsets.to(weight.device).repeat(channels, 1)
    return Block(source=source, shift=shift, weight=weight.detach().flatten(1).clone(), bias=bias)
