"""What one convolution of a graph is: its geometry, its parameters, and why it is kept if it is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Kernel size, stride, dilation and the zero padding before and after, one entry per spatial axis (D of them)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding_before: tuple[int, ...]
    padding_after: tuple[int, ...]

    @property
    def delta(self) -> tuple[int, ...]:
        """Per axis, the number for which ``out = (size + delta) // stride + 1``."""
        return tuple(
            before + after - dilation * (kernel - 1) - 1
            for kernel, dilation, before, after in zip(
                self.kernel, self.dilation, self.padding_before, self.padding_after, strict=True
            )
        )

    @property
    def taps(self) -> int:
        """T, the number of kernel positions."""
        count = 1
        for size in self.kernel:
            count *= size
        return count

    def tap_offsets(self) -> Tensor:
        """Input position of each tap relative to ``i * stride``: float32 [T, D], ordered like ``weight.flatten(2)``."""
        axes = [
            [tap * dilation - before for tap in range(kernel)]
            for kernel, dilation, before in zip(self.kernel, self.dilation, self.padding_before, strict=True)
        ]
        return torch.tensor(list(itertools.product(*axes)), dtype=torch.float32)

    def output_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Output size per axis for an input of ``spatial`` pixels."""
        return tuple(
            (size + delta) // stride + 1 for size, delta, stride in zip(spatial, self.delta, self.stride, strict=True)
        )


@dataclass(frozen=True)
class ConvSite:
    """One convolution call of the graph.

    ``name`` is unique and readable (``layer1.0.conv1``); ``node`` is the graph's own name for the call. Targets are
    fully qualified parameter names. Shapes are those of the example input. Sites that share their weight, bias and
    geometry share ``key`` and stay tied. ``row_groups`` is the rule's choice for the rewritten form: the groups of the
    1x1 convolution that mixes the rows.
    """

    name: str
    node: str
    op: str
    weight_target: str
    bias_target: str | None
    in_channels: int
    out_channels: int
    groups: int
    transposed: bool
    geometry: Geometry
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    dtype: torch.dtype
    key: str
    row_groups: int = 1

    @property
    def exact_rows(self) -> int:
        """C * T: every tap of every channel as a row is the convolution itself."""
        return self.in_channels * self.geometry.taps

    @property
    def macs(self) -> int:
        """Multiply-adds of one call at the example's shape (for a transposed one, counted at its input)."""
        positions = self.input_shape if self.transposed else self.output_shape
        count = self.in_channels // self.groups * self.out_channels * self.geometry.taps
        for size in (positions[0], *positions[2:]):
            count *= size
        return count


@dataclass(frozen=True)
class Refusal:
    """A convolution that is kept, with a stable reason code for machines and a sentence for people.

    ``site`` describes it as far as the graph tells. docs/reasons.md explains every code.
    """

    name: str
    node: str
    code: str
    message: str
    site: ConvSite | None = None
