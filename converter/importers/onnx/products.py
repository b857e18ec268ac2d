"""Matrix products and sums over axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from aslconvert.converter.importers.onnx.call import Call, axis_of
from aslconvert.converter.importers.onnx.refusals import bad_graph
from aslconvert.converter.importers.onnx.registry import Result, operator
from aslconvert.converter.importers.onnx.values import Host, converted


@operator("MatMul")
def matmul(call: Call) -> Tensor:
    return torch.matmul(call.tensor(0, "weight"), call.tensor(1, "weight"))


@operator("Gemm", attributes="alpha beta transA transB")
def gemm(call: Call) -> Tensor:
    a, b, c = call.tensor(0), call.tensor(1, "weight"), call.optional(2, "bias")
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    a = a.t() if call.attribute("transA", 0) else a
    transposed = bool(call.attribute("transB", 0))
    if a.dim() != 2 or b.dim() != 2:
        raise bad_graph(call.node.where, f"a product of {a.dim()} and {b.dim()} axes.")
    if transposed and alpha == 1 and (c is None or (beta == 1 and c.dim() == 1 and c.shape[0] == b.shape[0])):
        return F.linear(a, b, c)
    y = torch.matmul(a, b.t() if transposed else b)
    y = y if alpha == 1 else y * alpha
    if c is None:
        return y
    return y + (c if beta == 1 else c * beta)


@operator("Einsum", attributes="equation")
def einsum(call: Call) -> Tensor:
    return torch.einsum(call.attribute("equation", ""), *(call.tensor(i) for i in range(len(call.values))))


REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMean": lambda x, axes, keep: _mean(x, axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
}


@operator(*REDUCTIONS, attributes="axes keepdims noop_with_empty_axes")
def reduction(call: Call) -> Tensor:
    x = call.tensor(0)
    axes = _axes(call, x.dim())
    if axes is None:
        return x
    # torch sums integers in 64 bits and takes their roots and logarithms as floats.
    return converted(REDUCTIONS[call.node.op](x, axes, bool(call.attribute("keepdims", 1))), x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    return torch.div(x.sum(axes, keep), math.prod(x.shape[axis] for axis in axes), rounding_mode="trunc")


@operator("ReduceProd", attributes="axes keepdims noop_with_empty_axes")
def product(call: Call) -> Result:
    keep = bool(call.attribute("keepdims", 1))
    value = call.value(0)
    rank = value.items.ndim if isinstance(value, Host) else call.tensor(0).dim()
    axes = _axes(call, rank)
    if isinstance(value, Host):
        if rank != 1 or axes is None:
            raise call.unsupported("a product of sizes over several axes")
        whole = math.prod(value.items.tolist())
        return Host.of([whole] if keep else whole, value.dtype)
    x = call.tensor(0)
    for axis in sorted(axes or [], reverse=True):
        x = x.prod(axis, keep, dtype=x.dtype)
    return x


def _axes(call: Call, rank: int) -> list[int] | None:
    """The axes to reduce, None for a call that reduces nothing; they moved from an attribute to an operand."""
    given = call.ints(1) if call.has(1) else call.node.attributes.get("axes") or []
    if not given:
        return None if call.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return [axis_of(call, axis, rank) for axis in given]
