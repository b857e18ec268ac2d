"""The fused op and the library's ways to do the same work, as calls that were checked against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from shapes import Case
from torch import Tensor
from torch.nn import functional

import aslconvert.kernels  # noqa: F401  (registers torch.ops.asl)

OPS = ("fused", "conv1x1", "product", "conv3x3", "depthwise_1x1", "grid_sample_1x1", "im2col")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Relative to the largest value, or to one; half types round inputs, panels and outputs.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2}
TF32_TOLERANCE = 5e-3
Key = tuple[str, str, str]  # op, layout, form
Call = Callable[[], Tensor]
CONV = torch.ops.aten.conv2d.default


@dataclass(frozen=True)
class Data:
    """A layer's tensors: image [N, C, H, W], what the bare 1x1 reads [N, K, ...], weights, and the epilogue's parts.

    `mixed` is what the 1x1 reads to do the same work: an image of K channels, of the output's size where the 3x3
    is not padded.
    """

    image: Tensor
    mixed: Tensor
    shift: Tensor
    source: Tensor | None
    pointwise: Tensor
    dense: Tensor
    depthwise: Tensor
    separable: Tensor
    bias: Tensor | None
    residual: Tensor | None


def make_data(case: Case, generator: torch.Generator, *, device: str, dtype: torch.dtype) -> Data:
    """Random tensors of a layer; shifts on the half-pixel grid within one pixel, as the fit chooses them."""

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)

    channels, rows, outputs = case.channels, case.rows, case.outputs
    centre = 1 - case.padding
    shift = torch.randint(-2, 3, (rows, 2), generator=generator) / 2 + centre
    source = torch.randint(0, channels, (rows,), generator=generator).to(device) if case.free else None
    size = (case.height, case.width) if case.padding else case.out_size
    return Data(
        image=normal(case.batch, channels, case.height, case.width),
        mixed=normal(case.batch, rows, *size),
        shift=shift.to(device),
        source=source,
        pointwise=normal(outputs, rows, scale=rows**-0.5),
        dense=normal(outputs, channels, 3, 3, scale=channels**-0.5 / 3),
        depthwise=normal(channels, 1, 3, 3, scale=1 / 3),
        separable=normal(outputs, channels, scale=channels**-0.5),
        bias=normal(outputs) if case.epilogue else None,
        residual=normal(case.batch, outputs, *case.out_size) if case.epilogue else None,
    )


def bilinear(image: Tensor, data: Data, case: Case) -> Tensor:
    """The shifted image by grid_sample, [K, N, *out], so that no check shares code with the kernels."""
    planes = image.transpose(0, 1)
    if data.source is not None:
        planes = planes[data.source]
    return functional.grid_sample(planes.contiguous(), grid_of(data, case, image.dtype), align_corners=False)


def grid_of(data: Data, case: Case, dtype: torch.dtype) -> Tensor:
    """What grid_sample wants: positions [K, *out, 2] as (x, y) in -1 .. 1."""
    out_height, out_width = case.out_size
    shift = data.shift.to(dtype)
    device = shift.device
    y = torch.arange(out_height, device=device)[None, :, None] * case.stride + shift[:, 0, None, None]
    x = torch.arange(out_width, device=device)[None, None, :] * case.stride + shift[:, 1, None, None]
    y = ((2 * y + 1) / case.height - 1).expand(-1, out_height, out_width)
    x = ((2 * x + 1) / case.width - 1).expand(-1, out_height, out_width)
    return torch.stack([x, y], -1).to(dtype)


def expected(data: Data, case: Case) -> dict[str, Tensor]:
    """What each op must give, in float64."""
    image, stride, padding = data.image.double(), case.stride, case.padding

    def finish(y: Tensor) -> Tensor:
        if data.bias is None or data.residual is None:
            return y
        return (y + data.bias.double()[:, None, None] + data.residual.double()).relu()

    shifted = torch.einsum("ok,knhw->nohw", data.pointwise.double(), bilinear(image, data, case))
    separable = data.separable.double()[:, :, None, None]
    dense = functional.conv2d(image, data.dense.double(), None, stride, padding)
    step = stride if padding else 1
    single = functional.conv2d(image, data.depthwise.double(), None, stride, padding, groups=case.channels)
    bare = finish(functional.conv2d(data.mixed.double(), data.pointwise.double()[:, :, None, None], None, step))
    return {
        "fused": finish(shifted),
        "conv1x1": bare,
        "product": bare,
        "conv3x3": finish(dense),
        "depthwise_1x1": finish(functional.conv2d(single, separable)),
        "grid_sample_1x1": finish(shifted),
        "im2col": finish(dense),
    }


def checked_calls(case: Case, data: Data, *, tf32: bool = False) -> dict[Key, Call]:
    """All ops in all layouts and forms, as (op, layout, form) to call.

    Raises:
        RuntimeError: one of them is further from float64 than its type explains.
    """
    calls = dict(_calls(case, data))
    truth = expected(data, case)
    tolerance = TF32_TOLERANCE if tf32 else TOLERANCE[data.image.dtype]
    for (op, layout, form), call in calls.items():
        error = float(
            (call().double().reshape(truth[op].shape) - truth[op]).abs().max() / truth[op].abs().max().clamp(min=1)
        )
        if not error <= tolerance:
            raise RuntimeError(f"{op} ({layout}, {form}) is wrong by {error:.2e} at {case.shape}; nothing was timed")
    return calls


def _calls(case: Case, data: Data) -> Iterator[tuple[Key, Call]]:
    for layout in LAYOUTS:
        yield from _fused(case, data, layout)
        yield from _pointwise(case, data, layout)
        yield from _spatial(case, data, layout)
    yield from _gathering(case, data)


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    return tensor.contiguous(memory_format=LAYOUTS[layout])


def _finish(y: Tensor, data: Data, residual: Tensor | None) -> Tensor:
    """The rest of an epilogue after an op that added the bias already; in place, as a careful network would."""
    return y if residual is None else y.add_(residual).relu_()


def _fused(case: Case, data: Data, layout: str) -> Iterator[tuple[Key, Call]]:
    x = _laid_out(data.image, layout)
    residual = None if data.residual is None else _laid_out(data.residual, layout)
    packed = torch.ops.asl.pack_pointwise.default(data.pointwise)
    op = torch.ops.asl.shift_pointwise_packed.default
    tail = ([case.stride] * 2, [case.delta] * 2, case.epilogue, residual)
    yield (
        ("fused", layout, "packed"),
        partial(op, x, data.shift, data.source, packed, case.outputs, data.bias, *tail),
    )
    if x.dtype != torch.float32:
        # Other types go through the library's product, for which a packed weight is unpacked at every call.
        plain = torch.ops.asl.shift_pointwise.default
        yield (
            ("fused", layout, "plain"),
            partial(plain, x, data.shift, data.source, data.pointwise, data.bias, *tail),
        )


def _pointwise(case: Case, data: Data, layout: str) -> Iterator[tuple[Key, Call]]:
    """The bare 1x1 as a network calls it, and as a product in every form that the library has for it."""
    x = _laid_out(data.mixed, layout)
    weight = data.pointwise
    kernel = _laid_out(weight[:, :, None, None], layout)
    residual = None if data.residual is None else _laid_out(data.residual, layout)
    step = [case.stride if case.padding else 1] * 2
    for op in ("conv1x1", "product"):
        yield (op, layout, "conv2d"), lambda: _finish(CONV(x, kernel, data.bias, step), data, residual)
    if step == [1, 1] and layout == "channels_last":
        flat = x.permute(0, 2, 3, 1).reshape(-1, case.rows)
        flat_residual = None if residual is None else residual.permute(0, 2, 3, 1).reshape(-1, case.outputs)
        for form, turned in (("matmul", weight.t()), ("matmul, weight turned", weight.t().contiguous())):
            yield (
                ("product", layout, form),
                partial(_flat_product, flat, turned, data, flat_residual, (case.batch, *case.out_size, case.outputs)),
            )
    elif step == [1, 1] and data.bias is None:
        planes = x.flatten(2)
        product = partial(torch.ops.aten.mm.default, weight, planes[0]) if case.batch == 1 else None
        yield ("product", layout, "matmul"), product or partial(torch.matmul, weight, planes)
    known = x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if x.device.type == "cpu" and torch.backends.mkldnn.is_available() and known:
        yield ("product", layout, "oneDNN, weight packed"), _prepacked(x, kernel, data.bias, residual, step)


def _flat_product(flat: Tensor, weight: Tensor, data: Data, residual: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """A channels_last 1x1 as one matrix product over all pixels."""
    if data.bias is None:
        y = torch.ops.aten.mm.default(flat, weight)
    else:
        y = torch.ops.aten.addmm.default(data.bias, flat, weight)
    return _finish(y, data, residual).view(shape).permute(0, 3, 1, 2)


def _prepacked(x: Tensor, kernel: Tensor, bias: Tensor | None, residual: Tensor | None, step: list[int]) -> Call:
    """What torch.compile's frozen graphs call: the weight reordered once, bias, sum and ReLU inside the convolution."""
    geometry = ([0, 0], step, [1, 1], 1)
    packed = torch._C._nn.mkldnn_reorder_conv2d_weight(kernel.to_mkldnn(), *geometry, list(x.shape))
    if residual is None:
        op = torch.ops.mkldnn._convolution_pointwise.default
        return partial(op, x, packed, bias, *geometry, "none", [], "")
    op = torch.ops.mkldnn._convolution_pointwise.binary
    return partial(op, x, residual, packed, bias, *geometry, "add", 1.0, "relu", [], "")


def _spatial(case: Case, data: Data, layout: str) -> Iterator[tuple[Key, Call]]:
    x = _laid_out(data.image, layout)
    dense, single = _laid_out(data.dense, layout), _laid_out(data.depthwise, layout)
    one = _laid_out(data.separable[:, :, None, None], layout)
    residual = None if data.residual is None else _laid_out(data.residual, layout)
    stride, padding = [case.stride] * 2, [case.padding] * 2
    yield (
        ("conv3x3", layout, "conv2d"),
        lambda: _finish(CONV(x, dense, data.bias, stride, padding), data, residual),
    )

    def depthwise() -> Tensor:
        y: Tensor = CONV(CONV(x, single, None, stride, padding, [1, 1], case.channels), one, data.bias)
        return _finish(y, data, residual)

    yield ("depthwise_1x1", layout, "conv2d"), depthwise


def _gathering(case: Case, data: Data) -> Iterator[tuple[Key, Call]]:
    """The library's general tools, which only know contiguous images: grid_sample per row, and unfold."""
    # Positions in sixteen bits would be off by a good part of a pixel, and a grid has its image's type: such images
    # are sampled in float32.
    grid = grid_of(data, case, torch.float32 if data.image.dtype.itemsize == 2 else data.image.dtype)
    outputs, batch, size = case.outputs, case.batch, case.out_size
    bias = None if data.bias is None else data.bias[:, None, None]

    def finish(y: Tensor) -> Tensor:
        return y if bias is None else _finish(y.add_(bias), data, data.residual)

    def by_grid() -> Tensor:
        planes = data.image.transpose(0, 1)
        planes = planes.contiguous() if data.source is None else planes[data.source]
        shifted = functional.grid_sample(planes.to(grid.dtype), grid, align_corners=False).to(data.image.dtype)
        mixed = torch.mm(data.pointwise, shifted.flatten(1)).view(outputs, batch, *size)
        return finish(mixed.transpose(0, 1).contiguous())

    def by_columns() -> Tensor:
        columns = functional.unfold(data.image, 3, padding=case.padding, stride=case.stride)
        return finish(torch.matmul(data.dense.flatten(1), columns).view(batch, outputs, *size))

    yield ("grid_sample_1x1", "contiguous", "grid_sample + matmul"), by_grid
    yield ("im2col", "contiguous", "unfold + matmul"), by_columns
