"""The readable PyTorch definition of every op: oracle of the native kernels, and their stand-in without a compiler."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

# Per axis, two taps a row: offsets [K, 2] (int64, relative to i * stride) and weights [K, 2] (compute type).
AxisTaps = tuple[Tensor, Tensor]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# Far past any real image; the native kernels refuse more, so that no index computation can overflow.
_LARGEST = 2**31


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums run: float32 for the 16-bit types, the tensor's own type otherwise."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def output_size(spatial: Sequence[int], stride: Sequence[int], delta: Sequence[int]) -> list[int]:
    """Pixels per axis of the shifted image: (size + delta) // stride + 1."""
    return [(size + extra) // step + 1 for size, step, extra in zip(spatial, stride, delta, strict=True)]


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The layout an output takes over from x; whatever is not channels_last counts as contiguous."""
    if x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    if x.dim() == 5 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last_3d):
        return torch.channels_last_3d
    return torch.contiguous_format


def check_metadata(
    x: Tensor, shift: Tensor, source: Tensor | None, stride: Sequence[int], delta: Sequence[int]
) -> None:
    """Raises RuntimeError, in the words of the native kernels, where dims, types or sizes do not fit."""

    def check(condition: object, message: str) -> None:
        if not condition:
            raise RuntimeError(f"active shift: {message}")

    dims = x.dim() - 2
    check(1 <= dims <= 3, f"x must be [N, C, *spatial] with 1 to 3 spatial axes, got {x.dim()} dims")
    beside = [shift] if source is None else [shift, source]
    check(all(t.device == x.device for t in beside), f"x, shift and source must be on one device, x is on {x.device}")
    # On the CPU nobody computes in float16, and the native kernels do not take it.
    dtypes = _DTYPES if x.device.type == "cpu" else (*_DTYPES, torch.float16)
    names = "float32, float64 or bfloat16" if x.device.type == "cpu" else "float32, float64, bfloat16 or float16"
    check(x.dtype in dtypes, f"x must be {names}, got {x.dtype}")
    check(shift.dim() == 2 and shift.shape[1] == dims, f"shift must be [K, {dims}], got {list(shift.shape)}")
    check(shift.dtype in dtypes, f"shift must be {names}, got {shift.dtype}")
    if source is None:
        check(
            shift.shape[0] == x.shape[1],
            f"without source the rows of shift ({shift.shape[0]}) must be the channels of x ({x.shape[1]})",
        )
    else:
        check(source.dtype == torch.int64, f"source must be int64, got {source.dtype}")
        check(
            source.dim() == 1 and source.shape[0] == shift.shape[0],
            f"source must be [K] with K = {shift.shape[0]}, got {list(source.shape)}",
        )
    check(len(stride) == dims and len(delta) == dims, f"stride and delta need one entry per spatial axis ({dims})")
    check(all(1 <= step < _LARGEST for step in stride), f"stride must be at least 1, got {list(stride)}")
    for size, extra in zip(x.shape[2:], delta, strict=True):
        # Not of a symbolic size: export would take it as a promise about the model.
        fits = type(size) is not int or size < _LARGEST
        check(fits and abs(extra) < _LARGEST, f"size {size} with delta {extra} is too large")
        check(size + extra >= 0, f"the output would be empty: size {size} with delta {extra}")


def check_grad(grad: Tensor, x: Tensor, shift: Tensor, stride: Sequence[int], delta: Sequence[int]) -> None:
    """Raises RuntimeError where the upstream gradient is not like the output."""
    shape = [x.shape[0], shift.shape[0], *output_size(x.shape[2:], stride, delta)]
    if list(grad.shape) != shape or grad.dtype != x.dtype or grad.device != x.device:
        raise RuntimeError(f"active shift: grad must be {shape} of x's type and device")


def check_values(x: Tensor, shift: Tensor, source: Tensor | None) -> None:
    """Raises RuntimeError where a shift is not finite or a source channel does not exist."""
    if not bool(torch.isfinite(shift).all()):
        raise RuntimeError("active shift: shift holds a value that is not finite")
    if source is not None and source.numel() and (int(source.min()) < 0 or int(source.max()) >= x.shape[1]):
        raise RuntimeError(f"active shift: source must lie in [0, {x.shape[1]})")


def _split(shift: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Whole pixels and fraction of each shift, [K, D] each; a fraction that rounds up to one is a whole pixel."""
    exact = shift.detach().to(compute_dtype(shift.dtype)).clamp(-1e9, 1e9)
    base = exact.floor()
    fraction = (exact - base).to(dtype)
    return base.to(torch.int64) + (fraction >= 1), torch.where(fraction >= 1, torch.zeros_like(fraction), fraction)


def _sample_taps(base: Tensor, fraction: Tensor) -> list[AxisTaps]:
    return [
        (torch.stack([base[:, d], base[:, d] + 1], 1), torch.stack([1 - fraction[:, d], fraction[:, d]], 1))
        for d in range(base.shape[1])
    ]


def _slope_taps(base: Tensor, fraction: Tensor, axis: int) -> AxisTaps:
    """The derivative of the two sampling weights; at a whole pixel half the left slope plus half the right one."""
    whole = fraction[:, axis] == 0
    left = base[:, axis] - whole.to(torch.int64)
    weight = torch.where(whole, 0.5, 1.0).to(fraction.dtype)
    return torch.stack([left, base[:, axis] + 1], 1), torch.stack([-weight, weight], 1)


def _corners(
    taps: Sequence[AxisTaps], size: Sequence[int], out: Sequence[int], stride: Sequence[int]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per corner: flat index into the plane [K, P], validity [K, P], weight [K]; P = prod(out)."""
    corners = []
    for choice in itertools.product((0, 1), repeat=len(taps)):
        rows = taps[0][0].shape[0]
        index = torch.zeros(rows, 1, dtype=torch.int64, device=taps[0][0].device)
        valid = torch.ones(rows, 1, dtype=torch.bool, device=index.device)
        weight = torch.ones(rows, dtype=taps[0][1].dtype, device=index.device)
        for (offsets, weights), side, length, count, step in zip(taps, choice, size, out, stride, strict=True):
            at = torch.arange(count, device=index.device) * step + offsets[:, side, None]
            inside = (at >= 0) & (at < length)
            index = (index[:, :, None] * length + at.clamp(0, max(length - 1, 0))[:, None, :]).flatten(1)
            valid = (valid[:, :, None] & inside[:, None, :]).flatten(1)
            weight = weight * weights[:, side]
        corners.append((index, valid & (weight != 0)[:, None], weight))
    return corners


def _sample(x: Tensor, rows: Tensor, taps: Sequence[AxisTaps], out: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Weighted taps of x, [N, K, P] in the compute type; taps outside the image or of weight zero add nothing."""
    planes = x.to(taps[0][1].dtype).flatten(2)
    total = planes.new_zeros(x.shape[0], len(rows), torch.Size(out).numel())
    if planes.shape[2] == 0:
        return total
    for index, valid, weight in _corners(taps, x.shape[2:], out, stride):
        values = planes[:, rows[:, None], index] * weight[:, None]
        total = total + torch.where(valid, values, torch.zeros_like(values))
    return total


def _rows(x: Tensor, source: Tensor | None) -> Tensor:
    return torch.arange(x.shape[1], device=x.device) if source is None else source


def active_shift(
    x: Tensor, shift: Tensor, source: Tensor | None, stride: Sequence[int], delta: Sequence[int]
) -> Tensor:
    """Multilinear samples y[n, k, i] = x[n, source[k]] at i * stride + shift[k].

    Args:
        x: [N, C, *spatial], one to three spatial axes, float32, float64 or bfloat16 (float16 too off the CPU).
        shift: [K, D] in pixels, absolute: a convolution's tap t is the shift t * dilation - padding.
        source: [K] int64 channel of each row, or None where row k reads channel k.
        stride: output step per axis, at least 1.
        delta: output size per axis is (size + delta) // stride + 1.

    Returns:
        [N, K, *out] in x's type and memory format. Taps outside the image are zero and never read.

    Raises:
        RuntimeError: an argument has the wrong dims, type, size or range.
    """
    check_metadata(x, shift, source, stride, delta)
    check_values(x, shift, source)
    out = output_size(x.shape[2:], stride, delta)
    taps = _sample_taps(*_split(shift, compute_dtype(x.dtype)))
    y = torch.empty(
        (x.shape[0], shift.shape[0], *out), dtype=x.dtype, device=x.device, memory_format=memory_format_of(x)
    )
    return y.copy_(_sample(x, _rows(x, source), taps, out, stride).view(y.shape))


def active_shift_backward(
    grad: Tensor,
    x: Tensor,
    shift: Tensor,
    source: Tensor | None,
    stride: Sequence[int],
    delta: Sequence[int],
    need_input: bool,
    need_shift: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of `active_shift` wrt x (its exact adjoint) and wrt shift (the multilinear slope).

    Args:
        grad: [N, K, *out], the gradient of the output.
        need_input, need_shift: which of the two to compute.

    Returns:
        (like x, like shift); an empty tensor stands for the one not asked for.
    """
    check_metadata(x, shift, source, stride, delta)
    check_values(x, shift, source)
    out = output_size(x.shape[2:], stride, delta)
    check_grad(grad, x, shift, stride, delta)
    dtype = compute_dtype(x.dtype)
    rows = _rows(x, source)
    base, fraction = _split(shift, dtype)
    taps = _sample_taps(base, fraction)
    upstream = grad.to(dtype).flatten(2)

    grad_input, grad_shift = x.new_empty(0), shift.new_empty(0)
    if need_input:
        plane = torch.Size(x.shape[2:]).numel()
        flat = upstream.new_zeros(x.shape[0], x.shape[1] * plane)
        for index, valid, weight in _corners(taps, x.shape[2:], out, stride) if plane else []:
            values = upstream * weight[:, None]
            values = torch.where(valid, values, torch.zeros_like(values))
            flat.index_add_(1, (rows[:, None] * plane + index).flatten(), values.flatten(1))
        grad_input = torch.empty_like(x, memory_format=memory_format_of(x))
        grad_input.copy_(flat.view(x.shape))
    if need_shift:
        columns = []
        for axis in range(shift.shape[1]):
            sloped = [_slope_taps(base, fraction, axis) if d == axis else tap for d, tap in enumerate(taps)]
            columns.append((_sample(x, rows, sloped, out, stride) * upstream).sum((0, 2)))
        grad_shift = torch.stack(columns, 1).to(shift.dtype)
    return grad_input, grad_shift


PACK = 16
"""Output channels that lie together in a packed weight."""


def packed_shape(weight: Tensor) -> tuple[int, int, int]:
    """The shape of `pack_pointwise(weight)`; RuntimeError where weight is not [C_out, K]."""
    if weight.dim() != 2:
        raise RuntimeError(f"pack pointwise: weight must be [C_out, K], got {list(weight.shape)}")
    return (weight.shape[0] + PACK - 1) // PACK, weight.shape[1], PACK


def pack_pointwise(weight: Tensor) -> Tensor:
    """[C_out, K] as [ceil(C_out / 16), K, 16], padded with zeros: the order in which the CPU kernel reads it."""
    blocks, rows, _ = packed_shape(weight)
    padded = weight.new_zeros(blocks * PACK, rows)
    padded[: weight.shape[0]] = weight
    return padded.view(blocks, PACK, rows).transpose(1, 2).contiguous()


def unpack_pointwise(packed: Tensor, out_channels: int) -> Tensor:
    """[C_out, K] of a packed weight; RuntimeError where its shape cannot hold `out_channels`."""
    fits = packed.dim() == 3 and packed.shape[2] == PACK and packed.shape[0] == (out_channels + PACK - 1) // PACK
    if out_channels < 0 or not fits:
        raise RuntimeError(
            f"shift pointwise: packed must be [ceil({out_channels} / {PACK}), K, {PACK}], got {list(packed.shape)}"
        )
    return packed.transpose(1, 2).reshape(packed.shape[0] * PACK, packed.shape[1])[:out_channels]


PAIR_CHANNELS = 8
"""Output channels whose pairs of 16-bit weights lie together."""

MOST_SUM = 1 << 18
"""Sum of the magnitudes of a channel's integer weights, at most: samples then keep 13 bits beside the sign."""


def pack_int16(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round [C_out, K] to integers: (int16 [ceil(C_out / 8), ceil(K / 2), 8, 2], float32 scale [C_out]).

    A channel's weights are its integers times its scale, off by half a scale at most. The sum of their magnitudes is
    limited, so that its product with the samples fits 32 bits whatever they are. RuntimeError for other shapes.
    """
    if weight.dim() != 2:
        raise RuntimeError(f"pack int16: weight must be [C_out, K], got {list(weight.shape)}")
    wide = weight.double()
    # Rounding may add half a one to each.
    by_sum = wide.abs().sum(1) / (MOST_SUM - weight.shape[1] / 2)
    by_size = wide.abs().amax(1) / 32767 if weight.shape[1] else by_sum
    scale = torch.maximum(by_sum, by_size).clamp_min(torch.finfo(torch.float32).tiny).float()
    whole = (wide / scale.double()[:, None]).round().clamp(-32768, 32767).to(torch.int16)
    blocks, pairs = _int16_shape(*weight.shape)[:2]
    padded = whole.new_zeros(blocks * PAIR_CHANNELS, pairs * 2)
    padded[: weight.shape[0], : weight.shape[1]] = whole
    return padded.view(blocks, PAIR_CHANNELS, pairs, 2).transpose(1, 2).contiguous(), scale


def unpack_int16(x: Tensor, shift: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The weight that ``pack_int16`` gave, [C_out, K] in float32; RuntimeError where it does not fit the op's x."""
    if x.dtype != torch.float32 or scale.dim() != 1 or scale.dtype != torch.float32 or scale.device != x.device:
        raise RuntimeError("shift pointwise int16: x must be float32, scale [C_out] float32 on x's device")
    shape = _int16_shape(scale.shape[0], shift.shape[0])
    if tuple(weight.shape) != shape or weight.dtype != torch.int16 or weight.device != x.device:
        raise RuntimeError(f"shift pointwise int16: weight must be {list(shape)} int16, got {list(weight.shape)}")
    rows = weight.transpose(1, 2).reshape(shape[0] * PAIR_CHANNELS, shape[1] * 2)
    return rows[: scale.shape[0], : shift.shape[0]].float() * scale[:, None]


def _int16_shape(out_channels: int, rows: int) -> tuple[int, int, int, int]:
    return (out_channels + PAIR_CHANNELS - 1) // PAIR_CHANNELS, (rows + 1) // 2, PAIR_CHANNELS, 2


def check_pointwise(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, shape: Sequence[int]
) -> None:
    """Raises RuntimeError where weight, bias or residual does not fit the rows of shift, x's type or the output."""
    for tensor in (weight, bias, residual):
        if tensor is not None and tensor.device != x.device:
            raise RuntimeError(f"shift pointwise: all must be on x's device, {x.device}, not {tensor.device}")
    if weight.dim() != 2 or weight.shape[1] != shift.shape[0] or weight.dtype != x.dtype:
        raise RuntimeError(
            f"shift pointwise: weight must be [C_out, {shift.shape[0]}] of x's type, "
            f"got {list(weight.shape)} {weight.dtype}"
        )
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != weight.shape[0] or bias.dtype != x.dtype):
        raise RuntimeError(
            f"shift pointwise: bias must be [{weight.shape[0]}] of x's type, got {list(bias.shape)} {bias.dtype}"
        )
    if residual is not None and (tuple(residual.shape) != tuple(shape) or residual.dtype != x.dtype):
        raise RuntimeError(
            f"shift pointwise: residual must be {list(shape)} of x's type, got {list(residual.shape)} {residual.dtype}"
        )


def shift_pointwise(
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
    """weight . active_shift(x) + bias + residual, then ReLU where asked; bias and residual may be None.

    Args:
        weight: [C_out, K].
        bias: [C_out].
        residual: [N, C_out, *out].

    Returns:
        [N, C_out, *out] in x's type and memory format.
    """
    check_metadata(x, shift, source, stride, delta)
    check_values(x, shift, source)
    out = output_size(x.shape[2:], stride, delta)
    shape = (x.shape[0], *weight.shape[:1], *out)
    check_pointwise(x, shift, weight, bias, residual, shape)
    dtype = compute_dtype(x.dtype)
    panel = _sample(x, _rows(x, source), _sample_taps(*_split(shift, dtype)), out, stride)
    result = torch.matmul(weight.to(dtype), panel).view(shape)
    if bias is not None:
        result = result + bias.to(dtype).view(-1, *[1] * len(out))
    if residual is not None:
        result = result + residual.to(dtype)
    if relu:
        result = result.relu()
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))
    return y.copy_(result)
