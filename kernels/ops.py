"""Registers the ops of namespace `asl` (native library or reference), their fakes and their autograd."""

# torch.library is not annotated.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aslconvert.kernels import autocast, reference

SCHEMAS = (
    "active_shift(Tensor x, Tensor shift, Tensor? source, int[] stride, int[] delta) -> Tensor",
    "active_shift_backward(Tensor grad, Tensor x, Tensor shift, Tensor? source, int[] stride, int[] delta, "
    "bool need_input, bool need_shift) -> (Tensor, Tensor)",
    "shift_pointwise(Tensor x, Tensor shift, Tensor? source, Tensor weight, Tensor? bias, int[] stride, "
    "int[] delta, bool relu, Tensor? residual=None) -> Tensor",
    "pack_pointwise(Tensor weight) -> Tensor",
    "shift_pointwise_packed(Tensor x, Tensor shift, Tensor? source, Tensor packed, int out_channels, Tensor? bias, "
    "int[] stride, int[] delta, bool relu, Tensor? residual=None) -> Tensor",
    "shift_pointwise_int16(Tensor x, Tensor shift, Tensor? source, Tensor weight, Tensor scale, Tensor? bias, "
    "int[] stride, int[] delta, bool relu, Tensor? residual=None) -> Tensor",
)
LIBRARY_PATH = Path(os.environ.get("ASLCONVERT_KERNELS") or Path(__file__).parent / "_asl.so")
"""The shared library; the variable names another build of it, as a sanitizer's run needs."""
DISABLE_VARIABLE = "ASLCONVERT_NO_NATIVE"


class NativeKernelsMissing(UserWarning):
    """The ops run on the slow PyTorch reference; the message says why."""


def _load_native() -> tuple[bool, str]:
    """Loads the shared library, which registers schemas and CPU kernels; (loaded, why not)."""
    if os.environ.get(DISABLE_VARIABLE, "") not in ("", "0"):
        return False, f"switched off by {DISABLE_VARIABLE}"
    if not LIBRARY_PATH.exists():
        return False, "the package was built without a C++ compiler"
    try:
        torch.ops.load_library(str(LIBRARY_PATH))
    except OSError as error:
        reason = f"{LIBRARY_PATH.name} does not load: {error}"
        warnings.warn(f"aslconvert runs on its slow reference kernels: {reason}", NativeKernelsMissing, stacklevel=2)
        return False, reason
    return True, ""


_NATIVE, _REASON = _load_native()
# The object must live as long as the process: dropping it takes the registrations away.
_LIBRARY = torch.library.Library("asl", "FRAGMENT")
if not _NATIVE:
    for _schema in SCHEMAS:
        _LIBRARY.define(_schema)
# Lower than any device's own kernel, so that devices without one still compute the right thing.
_LIBRARY.impl("active_shift", reference.active_shift, "CompositeExplicitAutograd")
_LIBRARY.impl("active_shift_backward", reference.active_shift_backward, "CompositeExplicitAutograd")
_LIBRARY.impl("shift_pointwise", reference.shift_pointwise, "CompositeExplicitAutograd")
_LIBRARY.impl("pack_pointwise", reference.pack_pointwise, "CompositeExplicitAutograd")


def _shift_pointwise_packed(
    x: Tensor,
    shift: Tensor,
    source: Tensor | None,
    packed: Tensor,
    out_channels: int,
    bias: Tensor | None,
    stride: Sequence[int],
    delta: Sequence[int],
    relu: bool,
    residual: Tensor | None = None,
) -> Tensor:
    """Devices without packed kernels of their own take the plain op."""
    weight = reference.unpack_pointwise(packed, out_channels)
    y: Tensor = torch.ops.asl.shift_pointwise(x, shift, source, weight, bias, stride, delta, relu, residual)
    return y


_LIBRARY.impl("shift_pointwise_packed", _shift_pointwise_packed, "CompositeExplicitAutograd")


def _shift_pointwise_int16(
    x: Tensor,
    shift: Tensor,
    source: Tensor | None,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    delta: Sequence[int],
    relu: bool,
    residual: Tensor | None = None,
) -> Tensor:
    """Devices without 16-bit kernels of their own take the plain op."""
    plain = reference.unpack_int16(x, shift, weight, scale)
    y: Tensor = torch.ops.asl.shift_pointwise(x, shift, source, plain, bias, stride, delta, relu, residual)
    return y


_LIBRARY.impl("shift_pointwise_int16", _shift_pointwise_int16, "CompositeExplicitAutograd")
autocast.register(_LIBRARY)


def is_native() -> bool:
    """True where the ops run on the compiled kernels, False on the PyTorch reference."""
    return _NATIVE


def build_info() -> dict[str, str]:
    """What runs the ops: `backend` (native or reference), and `reason` or the compiled build's properties."""
    if not _NATIVE:
        return {"backend": "reference", "reason": _REASON}
    library = ctypes.CDLL(str(LIBRARY_PATH))
    library.asl_build_info.restype = ctypes.c_char_p
    text: bytes = library.asl_build_info()
    return {"backend": "native", **dict(part.split("=", 1) for part in text.decode().split(";"))}


def has_int16() -> bool:
    """True where ``shift_pointwise_int16`` runs on kernels of its own, which take about half the time of float ones."""
    return build_info().get("int16", "none") != "none"


@torch.library.register_fake("asl::active_shift", lib=_LIBRARY)
def _active_shift_fake(
    x: Tensor, shift: Tensor, source: Tensor | None, stride: Sequence[int], delta: Sequence[int]
) -> Tensor:
    reference.check_metadata(x, shift, source, stride, delta)
    shape = (x.shape[0], shift.shape[0], *reference.output_size(x.shape[2:], stride, delta))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=reference.memory_format_of(x))


@torch.library.register_fake("asl::active_shift_backward", lib=_LIBRARY)
def _active_shift_backward_fake(
    grad: Tensor,
    x: Tensor,
    shift: Tensor,
    source: Tensor | None,
    stride: Sequence[int],
    delta: Sequence[int],
    need_input: bool,
    need_shift: bool,
) -> tuple[Tensor, Tensor]:
    reference.check_metadata(x, shift, source, stride, delta)
    reference.check_grad(grad, x, shift, stride, delta)
    grad_input = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=reference.memory_format_of(x))
        if need_input
        else x.new_empty(0)
    )
    return grad_input, shift.new_empty(shift.shape) if need_shift else shift.new_empty(0)


@torch.library.register_fake("asl::shift_pointwise", lib=_LIBRARY)
def _shift_pointwise_fake(
    x: Tensor,
    shift: Tensor,
    source: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    delta: Sequence[int],
    relu: bool,
    residual: Tensor | None = None,
) -> Tensor:
    reference.check_metadata(x, shift, source, stride, delta)
    shape = (x.shape[0], *weight.shape[:1], *reference.output_size(x.shape[2:], stride, delta))
    reference.check_pointwise(x, shift, weight, bias, residual, shape)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=reference.memory_format_of(x))


@torch.library.register_fake("asl::pack_pointwise", lib=_LIBRARY)
def _pack_pointwise_fake(weight: Tensor) -> Tensor:
    return weight.new_empty(reference.packed_shape(weight))


@torch.library.register_fake("asl::shift_pointwise_packed", lib=_LIBRARY)
def _shift_pointwise_packed_fake(
    x: Tensor,
    shift: Tensor,
    source: Tensor | None,
    packed: Tensor,
    out_channels: int,
    bias: Tensor | None,
    stride: Sequence[int],
    delta: Sequence[int],
    relu: bool,
    residual: Tensor | None = None,
) -> Tensor:
    weight = reference.unpack_pointwise(packed, out_channels)
    y: Tensor = _shift_pointwise_fake(x, shift, source, weight, bias, stride, delta, relu, residual)
    return y


@torch.library.register_fake("asl::shift_pointwise_int16", lib=_LIBRARY)
def _shift_pointwise_int16_fake(
    x: Tensor,
    shift: Tensor,
    source: Tensor | None,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    delta: Sequence[int],
    relu: bool,
    residual: Tensor | None = None,
) -> Tensor:
    reference.check_metadata(x, shift, source, stride, delta)
    plain = reference.unpack_int16(x, shift, weight, scale)
    y: Tensor = _shift_pointwise_fake(x, shift, source, plain, bias, stride, delta, relu, residual)
    return y


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, shift, source, ctx.stride, ctx.delta = inputs
    ctx.save_for_backward(x, shift, source)


def _active_shift_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
    x, shift, source = ctx.saved_tensors
    need_input, need_shift = ctx.needs_input_grad[:2]
    grad_input, grad_shift = torch.ops.asl.active_shift_backward(
        grad, x, shift, source, ctx.stride, ctx.delta, need_input, need_shift
    )
    return grad_input if need_input else None, grad_shift if need_shift else None, None, None, None


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise NotImplementedError("asl::active_shift has no second derivative; detach its gradient first")


torch.library.register_autograd("asl::active_shift", _active_shift_grad, setup_context=_save_for_backward, lib=_LIBRARY)
torch.library.register_autograd("asl::active_shift_backward", _no_second_derivative, lib=_LIBRARY)


def active_shift(
    x: Tensor,
    shift: Tensor,
    *,
    source: Tensor | None = None,
    stride: Sequence[int] | None = None,
    delta: Sequence[int] | None = None,
) -> Tensor:
    """Shifts channels by real-valued offsets; differentiable in x and shift (see `reference.active_shift`).

    Args:
        x: [N, C, *spatial], one to three spatial axes.
        shift: [K, D] pixels.
        source: [K] int64 channel of each row; None where row k reads channel k.
        stride: output step per axis; 1 by default.
        delta: output size per axis is (size + delta) // stride + 1; -1 (same size at stride 1) by default.

    Returns:
        [N, K, *out] in x's type and memory format.

    Raises:
        RuntimeError: an argument has the wrong dims, type, size or range.
    """
    axes = x.dim() - 2
    y: Tensor = torch.ops.asl.active_shift(
        x, shift, source, list(stride or [1] * axes), list([-1] * axes if delta is None else delta)
    )
    return y


def shift_pointwise(
    x: Tensor,
    shift: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    source: Tensor | None = None,
    stride: Sequence[int] | None = None,
    delta: Sequence[int] | None = None,
    relu: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """The fused inference op: relu(weight . active_shift(x) + bias + residual).

    weight is [C_out, K], bias [C_out], residual [N, C_out, *out]; the last two may be None.

    Returns:
        [N, C_out, *out] in x's type and memory format.

    Raises:
        RuntimeError: an argument has the wrong dims, type, size or range.
        NotImplementedError: a gradient would be needed; the op is for inference.
    """
    # The op itself has no autograd kernel: torch's Python one would cost as much as a small layer on every call.
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, shift, weight, bias, residual)):
        raise NotImplementedError("shift_pointwise is for inference; train with ShiftPointwise, which is both")
    axes = x.dim() - 2
    y: Tensor = torch.ops.asl.shift_pointwise(
        x,
        shift,
        source,
        weight,
        bias,
        list(stride or [1] * axes),
        list([-1] * axes if delta is None else delta),
        relu,
        residual,
    )
    return y
