"""Pools over windows and over whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from aslconvert.converter.importers.onnx.call import Call
from aslconvert.converter.importers.onnx.registry import operator
from aslconvert.converter.importers.onnx.windows import pad, padding, spatial_rank, symmetric

MAXIMA = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEANS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@operator("MaxPool", attributes="auto_pad ceil_mode dilations kernel_shape pads storage_order strides")
def max_pool(call: Call) -> Tensor:
    call.only_first_output()
    call.require("storage_order", 0)
    x = call.tensor(0)
    rank = spatial_rank(call, x)
    kernel, stride = call.int_list("kernel_shape", rank, 0), call.int_list("strides", rank, 1)
    dilation = call.int_list("dilations", rank, 1)
    before, after = padding(call, x.shape[2:], kernel, stride, dilation)
    ceil = bool(call.require("ceil_mode", 0, 0, 1))
    if symmetric(before, after) and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return MAXIMA[rank](x, kernel, stride, before, dilation, ceil)
    if ceil:
        after = _reaching(call, x.shape[2:], kernel, stride, dilation, before, after)
    if not x.is_floating_point():
        raise call.unsupported("padding of integers")
    return MAXIMA[rank](pad(x, before, after, -math.inf), kernel, stride, 0, dilation)


@operator("AveragePool", attributes="auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides")
def average_pool(call: Call) -> Tensor:
    x = call.tensor(0)
    rank = spatial_rank(call, x)
    kernel, stride = call.int_list("kernel_shape", rank, 0), call.int_list("strides", rank, 1)
    dilation = call.int_list("dilations", rank, 1)
    if dilation != [1] * rank:
        raise call.unsupported(f"dilations={dilation}")
    before, after = padding(call, x.shape[2:], kernel, stride, dilation)
    ceil = bool(call.require("ceil_mode", 0, 0, 1))
    include = bool(call.require("count_include_pad", 0, 0, 1))
    pool = MEANS[rank]
    if symmetric(before, after) and all(2 * p <= k for p, k in zip(before, kernel, strict=True)):
        return pool(x, kernel, stride, before, ceil, include)
    reach = _reaching(call, x.shape[2:], kernel, stride, dilation, before, after) if ceil else after
    # The mean over what counts: both sums are divided by the whole window, which cancels.
    ones = x.new_ones((1, 1, *x.shape[2:]))
    if include:
        ones = pad(ones, before, after, 1.0)
        ones = pad(ones, [0] * rank, [r - a for r, a in zip(reach, after, strict=True)])
    else:
        ones = pad(ones, before, reach)
    return pool(pad(x, before, reach), kernel, stride) / pool(ones, kernel, stride)


def _reaching(
    call: Call,
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
) -> list[int]:
    """The padding after, enlarged so that a last partial window fits; one that would start in it is dropped."""
    reach = []
    for n, k, s, d, b, a in zip(sizes, kernel, stride, dilation, before, after, strict=True):
        window = d * (k - 1) + 1
        steps = (n + b + a - window + s - 1) // s
        if not isinstance(steps, int):
            raise call.unsupported("ceil_mode with uneven padding and a dynamic image size")
        if steps * s >= n + b:
            steps -= 1
        reach.append(max(steps * s + window - n - b, a))
    return reach


@operator("GlobalAveragePool")
def global_average_pool(call: Call) -> Tensor:
    x = call.tensor(0)
    return x.mean(list(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(call: Call) -> Tensor:
    x = call.tensor(0)
    return x.amax(list(range(2, x.dim())), keepdim=True)
