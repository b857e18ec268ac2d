"""Counts a model's parameters, bytes and multiply-adds by running its graph on shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Counts:
    """``params``: learned numbers; ``bytes``: parameters and buffers in memory; ``macs``: multiply-adds a call."""

    params: int
    bytes: int
    macs: int


def count(model: nn.Module | ExportedProgram, inputs: Sequence[Tensor]) -> Counts:
    """Counts of ``model`` called with tensors of the shapes of ``inputs``; nothing is computed.

    Multiply-adds are those of convolutions, matrix products and attention; a shift counts the 2^D of its
    D-dimensional interpolation for each output element, also where it happens to be at an integer.
    """
    module: nn.Module = model.module(check_guards=False) if isinstance(model, ExportedProgram) else model
    parameters = list(module.parameters())
    return Counts(
        params=sum(p.numel() for p in parameters),
        bytes=sum(t.numel() * t.element_size() for t in [*parameters, *module.buffers()]),
        macs=count_macs(module, inputs),
    )


def count_macs(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Multiply-adds of one call with tensors of the shapes of ``inputs``."""
    import aslconvert.kernels  # noqa: F401  (registers torch.ops.asl)

    counter = FlopCounterMode(display=False, custom_mapping=_shift_formulas())
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, torch.no_grad(), counter:
        module(*(fake.from_tensor(x) for x in inputs))
    return int(counter.get_total_flops() // 2)


def _shift_formulas() -> dict[Any, Callable[..., int]]:
    # The counter's unit is a flop: two for each multiply-add.
    def active_shift(*args: Any, out_shape: Sequence[int], **_: Any) -> int:
        return 2 * _corners(out_shape) * math.prod(out_shape)

    def shift_pointwise(x: Sequence[int], shift: Sequence[int], *args: Any, out_shape: Sequence[int], **_: Any) -> int:
        rows = shift[0]
        pixels = out_shape[0] * math.prod(out_shape[2:])
        return 2 * rows * pixels * (_corners(out_shape) + out_shape[1])

    ops = torch.ops.asl
    return {
        ops.active_shift: active_shift,
        ops.shift_pointwise: shift_pointwise,
        ops.shift_pointwise_packed: shift_pointwise,
        ops.shift_pointwise_int16: shift_pointwise,
    }


def _corners(shape: Sequence[int]) -> int:
    """Grid points that a multilinear sample of [N, C, *spatial] mixes: 2^D."""
    corners: int = 2 ** (len(shape) - 2)
    return corners
