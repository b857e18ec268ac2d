"""Random problems for the fused CUDA kernel, their exact answer, and how far each type may be from it."""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from aslconvert.kernels import reference

NUMBERS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""The types as the launchers count them."""
HALF_STEP = {torch.float32: 2.0**-24, torch.float64: 2.0**-53, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Relative error of one rounding."""
TF32_STEP = 2.0**-11
LARGE, MANY = (1, 227 << 10, 228 << 10), (3, 163 << 10, 164 << 10)
SMALL, TINY = (1, 99 << 10, 100 << 10), (2, 72 << 10, 72 << 10)
"""Multiprocessors, and shared memory of a block and of a multiprocessor."""


@dataclass(frozen=True)
class Case:
    """The op's arguments; images are dense, channels_last where `last` says so."""

    x: Tensor
    shift: Tensor
    source: Tensor | None
    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    delta: list[int]
    relu: bool
    residual: Tensor | None
    last: bool
    tf32: bool = False

    def memory_format(self) -> torch.memory_format:
        if not self.last:
            return torch.contiguous_format
        return torch.channels_last_3d if self.x.dim() == 5 else torch.channels_last

    def out(self) -> list[int]:
        return reference.output_size(self.x.shape[2:], self.stride, self.delta)

    def to(self, **changes: Any) -> Case:
        """With some arguments replaced, and images in the layout again."""
        case = replace(self, **changes)
        dense = case.x.contiguous(memory_format=case.memory_format())
        residual = None
        if case.residual is not None:
            residual = case.residual.contiguous(memory_format=case.memory_format())
        return replace(case, x=dense, residual=residual)


def make(
    seed: int, dtype: torch.dtype, *, batch: int, channels: int, rows: int | None, columns: int, spatial: list[int],
    stride: list[int] | None = None, delta: list[int] | None = None, reach: float = 1.0, grid: float | None = 0.5,
    last: bool = True,
) -> Case:  # fmt: skip
    """Standard normal values; shifts uniform in [-reach, reach], on the grid if given; rows None: no source."""
    generator = torch.Generator().manual_seed(seed)
    axes = len(spatial)
    k = channels if rows is None else rows
    shift = (torch.rand(k, axes, generator=generator) * 2 - 1) * reach
    if grid is not None:
        shift = (shift / grid).round() * grid
    case = Case(
        x=torch.randn(batch, channels, *spatial, generator=generator).to(dtype),
        shift=shift,
        source=None if rows is None else torch.randint(0, channels, (rows,), generator=generator),
        weight=torch.randn(columns, k, generator=generator).to(dtype),
        bias=torch.randn(columns, generator=generator).to(dtype),
        stride=stride or [1] * axes,
        delta=[-1] * axes if delta is None else delta,
        relu=False,
        residual=None,
        last=last and axes > 1,
    )
    return case.to()


def random_case(seed: int, dtype: torch.dtype) -> Case:
    """Tails in every size, all layouts, strides, sources sorted or not, shifts near and far, every epilogue."""
    draw = random.Random(seed)
    axes = draw.choice([1, 2, 2, 2, 2, 2, 2, 3])
    channels = draw.choice([1, 3, 8, 24, 40, 64, 72, 100])
    case = make(
        seed, dtype,
        batch=draw.choice([1, 1, 2, 5]),
        channels=channels,
        rows=None if draw.random() < 0.5 else draw.choice([1, 7, 64, 90, 130]),
        columns=draw.choice([1, 8, 20, 64, 72, 136]),
        spatial=[draw.choice([1, 3, 4, 7, 9, 14, 18]) for _ in range(axes)] if axes < 3 else [2, 3, 4],
        stride=[draw.choice([1, 1, 1, 2, 3]) for _ in range(axes)] if draw.random() < 0.3 else None,
        reach=draw.choice([0.0, 1.0, 1.0, 2.5, 6.0, 40.0]),
        grid=draw.choice([None, 0.5, 1.0]),
        last=draw.random() < 0.7,
    )  # fmt: skip
    if draw.random() < 0.3:
        case = case.to(delta=[max(draw.choice([-1, 0, 2, -3]), -size) for size in case.x.shape[2:]])
    if case.source is not None and draw.random() < 0.5:
        case = case.to(source=case.source.sort().values)
    generator = torch.Generator().manual_seed(seed + 1)
    residual = torch.randn(case.x.shape[0], len(case.weight), *case.out(), generator=generator).to(dtype)
    return case.to(
        bias=case.bias if draw.random() < 0.5 else None,
        residual=residual if draw.random() < 0.5 else None,
        relu=draw.random() < 0.5,
        tf32=dtype == torch.float32 and draw.random() < 0.5,
        shift=case.shift.to(draw.choice([torch.float32, torch.float64, dtype])),
    )


def run(library: Any, case: Case, *, seed: int = 0, device: tuple[int, int, int] = LARGE) -> Tensor:
    """The kernel's answer under the emulator's scheduler seed, on a device of that size."""
    axes = case.x.dim() - 2
    y = torch.full((case.x.shape[0], len(case.weight), *case.out()), torch.nan, dtype=case.x.dtype)
    y = y.contiguous(memory_format=case.memory_format())

    def three(values: Any) -> list[int]:
        return [1] * (3 - axes) + list(values)

    numbers = [
        *case.x.shape[:2], len(case.shift), len(case.weight),
        *three(case.x.shape[2:]), *three(case.out()), *three(case.stride),
        axes, NUMBERS[case.shift.dtype], case.last, case.relu, NUMBERS[case.x.dtype], case.tf32, *device,
    ]  # fmt: skip
    arguments = [case.x, case.shift, case.source, case.weight, case.bias, case.residual]
    library.call(
        "pointwise",
        *(None if tensor is None else library.read(tensor) for tensor in arguments),
        y,
        (ctypes.c_int64 * len(numbers))(*map(int, numbers)),
        seed=seed,
    )
    return y


def _rounded(value: Tensor, case: Case, tf32: bool) -> Tensor:
    """Values of a product's operand as the kernel holds them."""
    if tf32:
        bits = value.float().contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).double()
    return value.to(case.x.dtype).double()


def check(case: Case, y: Tensor) -> None:
    """Every element within what its own terms allow: one rounding of the output, float32 sums, one sample's rounding.

    The exact answer is that of the kernel's rounded samples. Its float32 sample may round the other way, so one of them
    may be off by a step of its type; an error of a tap, a weight or a row is far larger than that.
    """
    tf32 = case.tf32 and case.x.dim() < 5
    rounds = tf32 or case.x.dtype in (torch.bfloat16, torch.float16)
    # The reference takes no half on the CPU; as float32 the shifts are the same.
    shift = case.shift.float() if case.shift.dtype == torch.float16 else case.shift
    samples = reference.active_shift(case.x.double(), shift, case.source, case.stride, case.delta).flatten(2)
    samples = _rounded(samples, case, tf32)
    weight = _rounded(case.weight, case, tf32)
    expected = weight @ samples
    terms = weight.abs() @ samples.abs()
    if case.bias is not None:
        expected = expected + case.bias.double()[:, None]
        terms = terms + case.bias.double().abs()[:, None]
    if case.residual is not None:
        expected = expected + case.residual.double().flatten(2)
        terms = terms + case.residual.double().abs().flatten(2)
    expected = expected.relu() if case.relu else expected
    half = HALF_STEP[case.x.dtype]
    accumulated = HALF_STEP[torch.float64 if case.x.dtype == torch.float64 else torch.float32]
    allowed = 1.01 * half * expected.abs() + (len(case.shift) + 32) * accumulated * terms
    if rounds and samples.shape[1]:
        step = 2 * (TF32_STEP if tf32 else half)
        allowed = allowed + step * weight.abs().amax(1)[:, None] * samples.abs().amax(1, keepdim=True)
    if case.x.dtype == torch.float16:
        allowed = allowed + 2.0**-24
    excess = (y.double().flatten(2) - expected).abs() - allowed
    assert y.shape[2:] == torch.Size(case.out())
    assert bool((excess <= 0).all()), f"off by {float(excess.max()):.3g} beyond the bound of its own terms"
