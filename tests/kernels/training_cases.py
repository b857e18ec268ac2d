"""Random problems for the training ops that fill whole vectors of rows, and their comparison with the reference."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from aslconvert.kernels import reference

# Relative to the largest expected value.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass(frozen=True)
class Problem:
    """The arguments of `active_shift`, and a gradient of its output."""

    x: Tensor
    shift: Tensor
    source: Tensor | None
    stride: list[int]
    delta: list[int]
    grad: Tensor

    def forward(self) -> Tensor:
        return torch.ops.asl.active_shift(self.x, self.shift, self.source, self.stride, self.delta)

    def backward(self, need_input: bool = True, need_shift: bool = True) -> tuple[Tensor, Tensor]:
        return torch.ops.asl.active_shift_backward(
            self.grad, self.x, self.shift, self.source, self.stride, self.delta, need_input, need_shift
        )

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Output and gradients of the reference in float64, from the very same values."""
        x, shift, grad = self.x.double(), self.shift, self.grad.double()
        arguments = (x, shift, self.source, self.stride, self.delta)
        return (
            reference.active_shift(*arguments),
            *reference.active_shift_backward(grad, *arguments, True, True),
        )


def random_problem(seed: int, dtype: torch.dtype) -> Problem:
    """Whole blocks of rows and a tail; planes smaller and larger than a vector; every layout, stride and source."""
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    axes = draw.choice([1, 2, 2, 2, 3])
    sizes = {1: [3, 30, 150], 2: [2, 4, 7, 12, 21], 3: [2, 3, 6]}[axes]
    spatial = [draw.choice(sizes) for _ in range(axes)]
    stride = [draw.choice([1, 2, 3]) for _ in range(axes)] if draw.random() < 0.6 else [1] * axes
    delta = [max(draw.choice([-1, 0, 2, -3]), -size) for size in spatial] if draw.random() < 0.6 else [-1] * axes
    channels = draw.choice([4, 16, 20, 33])
    kind = draw.choice(["none", "none", "permuted", "repeated", "any"])
    source = None
    rows = channels
    if kind == "permuted":
        source = torch.randperm(channels, generator=generator)
    elif kind == "repeated":
        source = torch.arange(2 * channels) % channels
    elif kind == "any":
        source = torch.randint(0, channels, (draw.choice([1, 16, 37]),), generator=generator)
    rows = channels if source is None else len(source)
    x = torch.randn(draw.choice([1, 2, 3]), channels, *spatial, generator=generator).to(dtype)
    shift = torch.randn(rows, axes, generator=generator) * draw.choice([0.5, 2, 20])
    if draw.random() < 0.5:
        shift = (shift * 2).round() / 2
    out = reference.output_size(spatial, stride, delta)
    grad = torch.randn(x.shape[0], rows, *out, generator=generator).to(dtype)
    if axes > 1 and draw.random() < 0.6:
        x = x.contiguous(memory_format=LAST[axes])
    if axes > 1 and draw.random() < 0.5:
        grad = grad.contiguous(memory_format=LAST[axes])
    return Problem(x, shift.to(draw.choice([torch.float32, dtype])), source, stride, delta, grad)


def check(problem: Problem) -> None:
    """Forward and every combination of gradients against the float64 reference."""
    y, grad_input, grad_shift = problem.expected()
    _close(problem.forward(), y, problem.x.dtype)
    for need_input, need_shift in ((True, True), (True, False), (False, True)):
        actual = problem.backward(need_input, need_shift)
        if need_input:
            _close(actual[0], grad_input, problem.x.dtype)
        if need_shift:
            _close(actual[1], grad_shift, problem.shift.dtype if problem.x.dtype == torch.float64 else problem.x.dtype)


def _close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert actual.shape == expected.shape
    if expected.numel():
        error = (actual.double() - expected).abs().max()
        assert error <= TOLERANCE[dtype] * (1 + expected.abs().max()), float(error)


def main() -> None:
    """A short run for a fresh process, where an environment variable chooses the instruction set."""
    from aslconvert.kernels import build_info

    for seed in range(60):
        for dtype in TOLERANCE:
            check(random_problem(seed, dtype))
    sys.stdout.write(build_info().get("isa", "reference") + "\n")


if __name__ == "__main__":
    main()
