"""The converted form of one conv site: K shifted rows and the 1x1 weights that mix them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from aslconvert.converter.ir.site import Geometry


@dataclass(frozen=True)
class Block:
    """y = weight . S(x) + bias, where row k of S(x) is channel ``source[k]`` of x sampled at ``i * stride + shift[k]``.

    source: int64 [K]; shift: [K, D] in input pixels; weight: [C_out, K]; bias: [C_out] or None. With a weight of
    [C_out, K / g] the rows are mixed in g groups: rows and outputs stand group after group.
    """

    source: Tensor
    shift: Tensor
    weight: Tensor
    bias: Tensor | None

    def __post_init__(self) -> None:
        k = self.source.numel()
        mixed = self.weight.shape[1]
        if self.shift.shape[0] != k or mixed == 0 or k % mixed or self.weight.shape[0] % (k // mixed):
            raise ValueError(
                f"a block of {k} rows got shifts {tuple(self.shift.shape)} and weights {tuple(self.weight.shape)}"
            )

    @property
    def rows(self) -> int:
        """K, the number of shifted rows."""
        return self.source.numel()

    @property
    def groups(self) -> int:
        """The groups that the rows are mixed in."""
        return self.rows // self.weight.shape[1]


def all_taps(
    geometry: Geometry, weight: Tensor, bias: Tensor | None, *, groups: int = 1, row_groups: int | None = None
) -> Block:
    """Every tap of every channel as a row: the original convolution exactly.

    weight: [C_out, C_in / groups, *kernel]. The block has K = C_in * T rows with integer shifts, channel-major,
    mixed in ``row_groups``: the convolution's own groups by default, or 1.
    Source: a convolution is the sum over its taps of a shift followed by a 1x1 convolution (NeurIPS 2018, eq. 1).
    """
    offsets = geometry.tap_offsets().to(weight.dtype)
    channels, taps = weight.shape[1] * groups, offsets.shape[0]
    source = torch.arange(channels, device=weight.device).repeat_interleave(taps)
    shift = offsets.to(weight.device).repeat(channels, 1)
    mixed = weight.detach().flatten(1).clone()
    if row_groups == 1 and groups > 1:
        mixed = torch.block_diag(*mixed.chunk(groups))  # type: ignore[no-untyped-call]
    return Block(source=source, shift=shift, weight=mixed, bias=bias)


def mix_rows(block: Block, rows: Tensor) -> Tensor:
    """The 1x1 convolution of a block: rows [N, K, *out] to [N, C_out, *out]."""
    axes = rows.dim() - 2
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
    return convolve(rows, block.weight.view(*block.weight.shape, *[1] * axes), block.bias, groups=block.groups)
