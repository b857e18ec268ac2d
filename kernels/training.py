"""The 1x1 convolution of shifted rows as one differentiable step: one product per direction over the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aslconvert.kernels.ops import active_shift
from aslconvert.kernels.reference import memory_format_of

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def mix_shifted(
    x: Tensor,
    shift: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    source: Tensor | None = None,
    stride: Sequence[int] | None = None,
    delta: Sequence[int] | None = None,
    recompute: bool = False,
) -> Tensor:
    """weight . active_shift(x) + bias, differentiable in x, shift, weight and bias.

    In channels_last the pixels of the batch are the rows of one matrix, and a single autograd node does both steps; in
    other layouts, under autocast and while a program is traced it is `active_shift` and a library 1x1 convolution.

    Args:
        x: [N, C, *spatial]; shift [K, D]; weight [C_out, K]; bias [C_out] or None; see `active_shift` for the rest.
        recompute: keep x alone for the backward pass and shift it again there. Saves the memory of the shifted rows,
            for the time of one more `active_shift`.

    Returns:
        [N, C_out, *out] in x's type and memory format.

    Raises:
        RuntimeError: an argument has the wrong dims, type, size or range.
    """
    axes = x.dim() - 2
    stride = list(stride or [1] * axes)
    delta = list([-1] * axes if delta is None else delta)
    if _one_node(x, weight):
        # torch's Function is not annotated.
        y: Tensor = _MixShifted.apply(  # type: ignore[no-untyped-call]
            x, shift, weight, bias, source, stride, delta, recompute
        )
        return y
    rows = active_shift(x, shift, source=source, stride=stride, delta=delta)
    return _CONVOLUTIONS[axes](rows, weight.view(*weight.shape, *[1] * axes), bias)


def _one_node(x: Tensor, weight: Tensor) -> bool:
    # Tracers want operators they can see, and autocast chooses types for the library's own.
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type) or x.dtype != weight.dtype:
        return False
    functorch = getattr(torch._C, "_are_functorch_transforms_active", None)
    if functorch is not None and functorch():
        return False
    return memory_format_of(x) != torch.contiguous_format


class _MixShifted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shift: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        source: Tensor | None,
        stride: list[int],
        delta: list[int],
        recompute: bool,
    ) -> Tensor:
        rows = torch.ops.asl.active_shift.default(x, shift, source, stride, delta)
        matrix = _matrix(rows)
        product = matrix @ weight.t() if bias is None else torch.addmm(bias, matrix, weight.t())
        ctx.stride, ctx.delta = stride, delta
        ctx.save_for_backward(x, shift, weight, source, None if recompute else rows)
        return _image(product, rows.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, weight, source, rows = ctx.saved_tensors
        need_x, need_shift, need_weight, need_bias = ctx.needs_input_grad[:4]
        (grad,) = grads
        matrix = _matrix(grad)
        grad_x = grad_shift = grad_weight = grad_bias = None
        if need_weight:
            if rows is None:
                rows = torch.ops.asl.active_shift.default(x, shift, source, ctx.stride, ctx.delta)
            grad_weight = matrix.t() @ _matrix(rows)
        if need_bias:
            grad_bias = matrix.sum(0)
        if need_x or need_shift:
            upstream = _image(matrix @ weight, (*grad.shape[:1], weight.shape[1], *grad.shape[2:]))
            grad_x, grad_shift = torch.ops.asl.active_shift_backward.default(
                upstream, x, shift, source, ctx.stride, ctx.delta, need_x, need_shift
            )
        return grad_x if need_x else None, grad_shift if need_shift else None, grad_weight, grad_bias, *[None] * 4


def _matrix(image: Tensor) -> Tensor:
    """[N, C, *spatial] as [pixels of the batch, C]; a view in channels_last."""
    return image.movedim(1, -1).reshape(-1, image.shape[1])


def _image(matrix: Tensor, like: Sequence[int]) -> Tensor:
    """[pixels, C] as [N, C, *spatial] in channels_last, with batch and spatial sizes of the shape `like`."""
    return matrix.view(like[0], *like[2:], matrix.shape[1]).movedim(-1, 1)
