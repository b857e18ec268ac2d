"""Random problems for the CUDA launchers, and the plain structure that describes them."""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from aslconvert.kernels import reference

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
# Relative to the largest expected value: rounding of the result, and of float32 sums.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 5e-3, torch.float16: 6e-4}


class Sizes(ctypes.Structure):
    """`asl::cuda::Sizes` of launchers.h."""

    _fields_ = (
        ("batch", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("size", ctypes.c_int64 * 3),
        ("out", ctypes.c_int64 * 3),
        ("stride", ctypes.c_int64 * 3),
        ("shift_step", ctypes.c_int64 * 2),
        ("source_step", ctypes.c_int64),
        ("dims", ctypes.c_int32),
        ("type", ctypes.c_int32),
        ("shift_type", ctypes.c_int32),
        ("channels_last", ctypes.c_int32),
    )


@dataclass(frozen=True)
class Problem:
    """x and grad are [N, *spatial, C] in memory where channels_last."""

    x: Tensor
    grad: Tensor
    shift: Tensor
    source: Tensor | None
    stride: list[int]
    delta: list[int]
    channels_last: bool

    @property
    def out(self) -> list[int]:
        return reference.output_size(self.spatial, self.stride, self.delta)

    @property
    def spatial(self) -> list[int]:
        return list(self.x.shape[1:-1] if self.channels_last else self.x.shape[2:])

    def sizes(self) -> ctypes.Array[ctypes.c_char]:
        """The structure, as an argument for a launcher."""

        def padded(values: list[int]) -> list[int]:
            return [1] * (3 - len(values)) + values

        three = ctypes.c_int64 * 3
        channels = self.x.shape[-1 if self.channels_last else 1]
        fields = Sizes(
            self.x.shape[0],
            channels,
            self.shift.shape[0],
            three(*padded(self.spatial)),
            three(*padded(self.out)),
            three(*padded(self.stride)),
            (ctypes.c_int64 * 2)(*self.shift.stride()),
            1 if self.source is None else self.source.stride(0),
            len(self.spatial),
            TYPES[self.x.dtype],
            TYPES[self.shift.dtype],
            int(self.channels_last),
        )
        return ctypes.byref(fields)  # type: ignore[return-value]

    def first(self, image: Tensor) -> Tensor:
        """The image as [N, C, *spatial] in float64."""
        return (image.movedim(-1, 1) if self.channels_last else image).double()

    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None, list[int], list[int]]:
        """For the reference, in float64; shift in the precision that its fractions are taken in."""
        shift = self.shift.double() if self.shift.dtype == torch.float64 else self.shift.float()
        return self.first(self.x), shift, self.source, self.stride, self.delta


def _unaligned(tensor: Tensor, by: int) -> Tensor:
    """The same values, starting `by` elements into a buffer that ends with the last of them."""
    buffer = torch.empty(tensor.numel() + by, dtype=tensor.dtype)
    view = buffer[by:].view(tensor.shape)
    view.copy_(tensor)
    return view


def random_problem(seed: int, dtype: torch.dtype) -> Problem:
    """Widths that vectors divide and widths that they do not, both layouts, any stride, source and shift type."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    axes = draw.choice([1, 2, 2, 2, 3])
    sizes = [1, 2, 5, 8, 12, 16, 24] if axes < 3 else [1, 3, 4, 8]
    spatial = [draw.choice(sizes) for _ in range(axes)]
    stride = [draw.choice([1, 1, 2, 3]) for _ in range(axes)] if draw.random() < 0.3 else [1] * axes
    delta = [max(draw.choice([-1, 0, 2, -3, 7]), -size) for size in spatial] if draw.random() < 0.3 else [-1] * axes
    batch, channels = draw.choice([1, 2, 3]), draw.choice([1, 3, 4, 35, 8, 72])
    rows = channels if draw.random() < 0.4 else draw.choice([1, 2, 7, 8, 40])
    source = torch.randint(0, channels, (rows,), generator=generator)
    out = reference.output_size(spatial, stride, delta)
    channels_last = draw.random() < 0.5

    def image(planes: int, size: list[int]) -> Tensor:
        shape = (batch, *size, planes) if channels_last else (batch, planes, *size)
        return _unaligned(torch.randn(shape, generator=generator).to(dtype), draw.choice([0, 0, 0, 1, 2, 4]))

    shift = torch.randn(rows, axes, generator=generator, dtype=torch.double) * draw.choice([0.5, 2, 20])
    if draw.random() < 0.5:
        shift = (shift * 2).round() / 2
    shift = shift.to(draw.choice([torch.float32, torch.float64, dtype]))
    if draw.random() < 0.2:
        shift = shift.t().contiguous().t()
    if draw.random() < 0.2:
        source = torch.stack([source, source], 1)[:, 0]
    return Problem(
        image(channels, spatial),
        image(rows, out),
        shift,
        None if rows == channels and draw.random() < 0.7 else source,
        stride,
        delta,
        channels_last,
    )
