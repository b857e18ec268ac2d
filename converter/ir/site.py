"""What one convolution of a graph is: its geometry, its parameters, and why it is kept if it is."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aslconvert.converter.ir.reasons import KEPT


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


def gathering(geometry: Geometry, output_padding: tuple[int, ...]) -> tuple[Geometry, tuple[int, ...]]:
    """(geometry, crop) of the gathering form of a transposed convolution with ``geometry``.

    Output o = q s + r takes tap t from input i where i s - p + t d = o, so that i = q + (r + p - t d) / s for the taps
    that divide: offsets from q that depend on the phase r alone. The form's kernel spans the offsets of all phases.
    """
    axes, crop = [], []
    each = (geometry.kernel, geometry.stride, geometry.dilation, geometry.padding_before, output_padding)
    for kernel, stride, dilation, padding, extra in zip(*each, strict=True):
        reads = [r + padding - t * dilation for r in range(stride) for t in range(kernel)]
        offsets = [read // stride for read in reads if read % stride == 0]
        low, span = min(offsets), max(offsets) - min(offsets) + 1
        # The output has stride * size + beyond positions, in groups of stride.
        beyond = dilation * (kernel - 1) + extra + 1 - stride - 2 * padding
        groups = -(-beyond // stride)
        crop.append(groups * stride - beyond)
        axes.append((span, 1, 1, -low, groups - 1 + span + low))
    kernel_, stride_, dilation_, before, after = zip(*axes, strict=True)
    return Geometry(kernel_, stride_, dilation_, before, after), tuple(crop)


@dataclass(frozen=True)
class ConvSite:
    """One convolution call of the graph.

    ``name`` is unique and readable (``layer1.0.conv1``); ``node`` is the graph's own name for the call. Targets are
    fully qualified parameter names. Shapes are those of the example input. Sites that share their weight, bias and
    geometry share ``key`` and stay tied. ``row_groups`` is the rule's choice for the rewritten form: the groups of the
    1x1 convolution that mixes the rows.

    A transposed convolution of stride s is a gathering one with ``phases`` = s outputs for each of its own, dealt out
    to the s positions that one input pixel becomes: ``gather`` is its geometry, ``crop`` what is left at the end.
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
    output_padding: tuple[int, ...] = ()

    @property
    def exact_rows(self) -> int:
        """C * T: every tap of every channel as a row is the convolution itself."""
        return self.in_channels * self.gather.taps

    @property
    def phases(self) -> tuple[int, ...]:
        """Outputs per axis that a block gives at once: the stride of a transposed convolution, else one."""
        return self.geometry.stride if self.transposed else (1,) * len(self.geometry.kernel)

    @property
    def block_outputs(self) -> int:
        """Output channels of the block's 1x1 convolution: C_out for each phase."""
        return self.out_channels * math.prod(self.phases)

    @property
    def gather(self) -> Geometry:
        """The geometry that the rows read by."""
        return gathering(self.geometry, self.output_padding)[0] if self.transposed else self.geometry

    @property
    def crop(self) -> tuple[int, ...]:
        """Positions per axis that the last phases give beyond the output's end."""
        return gathering(self.geometry, self.output_padding)[1] if self.transposed else (0,) * len(self.phases)

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

    def __post_init__(self) -> None:
        if self.code not in KEPT:
            raise ValueError(f"'{self.code}' is no reason to keep '{self.name}'; see converter/ir/reasons.py")
