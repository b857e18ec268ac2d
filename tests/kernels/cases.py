"""Random problems for the ops, and the comparison with the reference that every test of them shares."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from aslconvert.kernels import reference

# Relative to the largest expected value; bfloat16 rounds the shifted panel before the product.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Problem:
    """The arguments shared by the three ops."""

    x: Tensor
    shift: Tensor
    source: Tensor | None
    stride: list[int]
    delta: list[int]

    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None, list[int], list[int]]:
        return self.x, self.shift, self.source, self.stride, self.delta


def random_problem(seed: int, dtype: torch.dtype) -> Problem:
    """Shapes from one pixel to odd widths past a vector, all layouts, whole, half and free shifts near and far."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    axes = draw.choice([1, 2, 2, 2, 3])
    sizes = [1, 2, 5, 7, 14, 33] if axes < 3 else [1, 3, 6]
    spatial = [draw.choice(sizes) for _ in range(axes)]
    stride = [draw.choice([1, 1, 2, 3]) for _ in range(axes)] if draw.random() < 0.4 else [1] * axes
    delta = [max(draw.choice([-1, -1, 0, 2, -3]), -size) for size in spatial] if draw.random() < 0.4 else [-1] * axes
    channels = draw.choice([1, 3, 5])
    identity = draw.random() < 0.3
    rows = channels if identity else draw.choice([1, 4, 7])
    x = torch.randn(draw.choice([1, 2, 3]), channels, *spatial, generator=generator).to(dtype)
    layout = draw.random()
    if axes > 1 and layout < 0.4:
        x = x.contiguous(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)
    elif layout > 0.85:
        x = torch.stack([x, x], -1)[..., 0]
    shift = torch.randn(rows, axes, generator=generator) * draw.choice([0.5, 2, 20])
    if draw.random() < 0.4:
        shift = (shift * 2).round() / 2
    shift = shift.to(draw.choice([torch.float32, dtype]))
    source = None if identity else torch.randint(0, channels, (rows,), generator=generator)
    return Problem(x, shift, source, stride, delta)


def problem_without_pixels(sizes: list[int], dtype: torch.dtype) -> Problem:
    """An image with an empty side whose results still have pixels, all of them from outside."""
    x = torch.zeros(2, 16, *sizes, dtype=dtype)
    shift = torch.linspace(-1, 1, 31 * len(sizes)).reshape(31, len(sizes))
    return Problem(x, shift, torch.arange(31) % 16, [1] * len(sizes), [0] * len(sizes))


def problem_of_wide_lines(dtype: torch.dtype, layout: torch.memory_format) -> Problem:
    """Few output pixels that span far more than the image, so that no loop may ask for memory by the span."""
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    step = 2**20
    columns = torch.tensor([0.5, 2, 1.5 - step, 3 - 8 * step, -4 - step, 2.5 - 3 * step])
    shift = torch.stack([torch.tensor([0, 0.5, -1.5, 2, 0, -9]), columns], 1)
    image = x.contiguous(memory_format=layout)
    return Problem(image, shift, torch.tensor([0, 2, 2, 1, 1, 0]), [2, step], [1, 8 * step])


def problem_of_a_long_line(dtype: torch.dtype) -> Problem:
    """One line of so many pixels with their channels side by side that sixteen rows of it would not fit."""
    x = torch.randn(1, 2, 1, 800_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    shift = torch.tensor([[0, 0.5], [0, -3], [0.5, 1.5]])
    image = x.contiguous(memory_format=torch.channels_last)
    return Problem(image, shift, torch.tensor([0, 1, 1]), [1, 1], [-1, -1])


def check_close(actual: Tensor, expected: Tensor) -> None:
    """Same shape, type, significant strides, and values within the type's tolerance."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    strides = zip(actual.stride(), expected.stride(), expected.shape, strict=True)
    assert all(a == b for a, b, size in strides if size > 1)
    if expected.numel():
        error = (actual.double() - expected.double()).abs().max()
        assert error <= TOLERANCE[expected.dtype] * (1 + expected.double().abs().max())


def check_all_ops(problem: Problem, seed: int) -> None:
    """Forward and both gradients against the reference, the fused op in both forms against it in float64."""
    generator = torch.Generator().manual_seed(seed)
    ops = torch.ops.asl
    y = ops.active_shift(*problem.arguments())
    check_close(y, reference.active_shift(*problem.arguments()))

    grad = torch.randn(y.shape, generator=generator).to(y.dtype)
    x, shift, source, stride, delta = problem.arguments()
    for need_input, need_shift in ((True, True), (True, False), (False, True)):
        actual = ops.active_shift_backward(grad, x, shift, source, stride, delta, need_input, need_shift)
        expected = reference.active_shift_backward(grad, x, shift, source, stride, delta, need_input, need_shift)
        for a, e in zip(actual, expected, strict=True):
            check_close(a, e)

    weight = torch.randn(4, shift.shape[0], generator=generator).to(x.dtype)
    bias = torch.randn(4, generator=generator).to(x.dtype) if seed % 2 else None
    residual = torch.randn(y.shape[0], 4, *y.shape[2:], generator=generator).to(x.dtype) if seed % 5 < 2 else None
    rest = (stride, delta, seed % 3 == 0)
    # In float64, of the very values that the op is given.
    exact = [t if t is None else t.double() for t in (x, weight, bias, residual)]
    place = shift if shift.dtype == torch.float64 else shift.float()
    expected = reference.shift_pointwise(exact[0], place, source, exact[1], exact[2], *rest, exact[3]).to(x.dtype)
    check_close(ops.shift_pointwise(x, shift, source, weight, bias, *rest, residual), expected)
    packed = ops.pack_pointwise(weight)
    check_close(ops.shift_pointwise_packed(x, shift, source, packed, 4, bias, *rest, residual), expected)


def main() -> None:
    """A short run for a fresh process, where environment variables choose what runs the ops."""
    import aslconvert.kernels

    for seed in range(40):
        for dtype in TOLERANCE:
            check_all_ops(random_problem(seed, dtype), seed)
    for sizes in ([0], [3, 0], [0, 70], [2, 0, 3]):
        for dtype in TOLERANCE:
            check_all_ops(problem_without_pixels(sizes, dtype), 0)
    for dtype in TOLERANCE:
        for layout in (torch.contiguous_format, torch.channels_last):
            check_all_ops(problem_of_wide_lines(dtype, layout), 0)
    info = aslconvert.kernels.build_info()
    sys.stdout.write(f"{info['backend']} {info.get('isa', info.get('reason'))}\n")


if __name__ == "__main__":
    main()
