"""Convolutions and transposed convolutions of one to three axes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from aslconvert.converter.importers.onnx.call import Call
from aslconvert.converter.importers.onnx.refusals import bad_graph
from aslconvert.converter.importers.onnx.registry import operator
from aslconvert.converter.importers.onnx.windows import pad, padding, spatial_rank, symmetric

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@operator("Conv", attributes="auto_pad dilations group kernel_shape pads strides")
def conv(call: Call) -> Tensor:
    x, weight, bias = call.tensor(0), call.tensor(1, "weight"), call.optional(2, "bias")
    kernel = _kernel(call, x, weight)
    rank = len(kernel)
    stride, dilation = call.int_list("strides", rank, 1), call.int_list("dilations", rank, 1)
    before, after = padding(call, x.shape[2:], kernel, stride, dilation)
    if not symmetric(before, after):
        x, before = pad(x, before, after), [0] * rank
    groups = call.attribute("group", 1)
    return CONVOLUTIONS[rank](x, weight, bias, stride, before, dilation, groups)


@operator("ConvTranspose", attributes="auto_pad dilations group kernel_shape output_padding output_shape pads strides")
def conv_transpose(call: Call) -> Tensor:
    """Its output has ``stride * (size - 1) + output_padding + dilation * (kernel - 1) + 1 - before - after`` pixels."""
    x, weight, bias = call.tensor(0), call.tensor(1, "weight"), call.optional(2, "bias")
    kernel = _kernel(call, x, weight)
    rank = len(kernel)
    stride, dilation = call.int_list("strides", rank, 1), call.int_list("dilations", rank, 1)
    extra = call.int_list("output_padding", rank, 0)
    groups = call.attribute("group", 1)
    auto = call.require("auto_pad", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    whole = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if "output_shape" in call.node.attributes or auto.startswith("SAME"):
        if "output_shape" in call.node.attributes:
            wanted = call.int_list("output_shape", rank, 0)
            totals = [
                s * (n - 1) + e + w - out
                for s, n, e, w, out in zip(stride, x.shape[2:], extra, whole, wanted, strict=True)
            ]
        else:
            totals = [e + w - s for s, e, w in zip(stride, extra, whole, strict=True)]
        if any(total < 0 for total in totals):
            raise call.unsupported("an output larger than its window reaches")
        small = [total // 2 for total in totals]
        large = [total - half for total, half in zip(totals, small, strict=True)]
        # The standard gives the larger half to the end for SAME_UPPER alone.
        before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
    else:
        before, after = padding(call, x.shape[2:], kernel, stride, dilation)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise call.unsupported(f"output_padding={extra}")
    function = TRANSPOSED[rank]
    if symmetric(before, after):
        return function(x, weight, bias, stride, before, extra, groups, dilation)
    y = function(x, weight, bias, stride, 0, extra, groups, dilation)
    for axis, (first, last) in enumerate(zip(before, after, strict=True), start=2):
        y = y.narrow(axis, first, y.shape[axis] - first - last)
    return y


def _kernel(call: Call, x: Tensor, weight: Tensor) -> list[int]:
    rank = spatial_rank(call, x)
    kernel = list(weight.shape[2:])
    if len(kernel) != rank or call.node.attributes.get("kernel_shape", kernel) != kernel:
        raise bad_graph(call.node.where, f"its weight has the shape {tuple(weight.shape)}, its input {x.dim()} axes.")
    return kernel
