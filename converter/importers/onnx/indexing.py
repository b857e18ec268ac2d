"""Operators that take parts of tensors: slices, splits, gathered rows, largest elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aslconvert.converter.importers.onnx.call import Call, axis_of
from aslconvert.converter.importers.onnx.refusals import bad_graph
from aslconvert.converter.importers.onnx.registry import Result, operator
from aslconvert.converter.importers.onnx.values import Constant, Host, is_known


@operator("Slice")
def slice_(call: Call) -> Result:
    value = call.value(0)
    rank = value.items.ndim if isinstance(value, Host) else call.tensor(0).dim()
    starts, ends = call.ints(1), call.ints(2)
    axes = call.ints(3) if call.has(3) else list(range(len(starts)))
    steps = call.ints(4) if call.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise bad_graph(call.node.where, "starts, ends, axes and steps do not fit each other.")
    places = [axis_of(call, axis, rank) for axis in axes]
    if isinstance(value, Host):
        parts: list[Any] = [slice(None)] * rank
        for axis, start, end, step in zip(places, starts, ends, steps, strict=True):
            parts[axis] = slice(start, _end(end, step), step)
        return Host(value.items[tuple(parts)], value.dtype)
    x = call.tensor(0)
    for axis, start, end, step in zip(places, starts, ends, steps, strict=True):
        x = _part(call, x, axis, start, end, step)
    return x


def _end(end: Any, step: int) -> Any:
    # Of a negative step, an end far below zero means "including the first".
    return None if step < 0 and isinstance(end, int) and end < -(1 << 31) else end


def _part(call: Call, x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    if step < 0:
        size = x.shape[axis]
        if not all(is_known(number) for number in (size, start, end)):
            raise call.unsupported("a negative step over a dynamic size")
        places = range(size)[slice(start, _end(end, step), step)]
        bounds = (places.start, places.stop, places.step) if places else (0, 0, 1)
        return x.index_select(axis, torch.arange(*bounds, dtype=torch.int64, device=x.device))
    parts: list[Any] = [slice(None)] * x.dim()
    parts[axis] = slice(start, end if not isinstance(end, int) or end < (1 << 31) else None, step)
    return x[tuple(parts)]


@operator("Split", attributes="axis num_outputs")
def split(call: Call) -> Result:
    value = call.value(0)
    items = value.items if isinstance(value, Host) else call.tensor(0)
    axis = axis_of(call, call.attribute("axis", 0), items.ndim)
    size, count = items.shape[axis], len(call.node.outputs)
    if call.has(1):
        sizes = call.ints(1)
    else:
        each = -(-size // count)
        sizes = [each] * (count - 1)
        sizes.append(size - each * (count - 1))
    if len(sizes) != count or call.attribute("num_outputs", count) != count:
        raise bad_graph(call.node.where, f"{len(sizes)} parts for {count} outputs.")
    if isinstance(value, Host):
        return [Host(part, value.dtype) for part in np.split(value.items, np.cumsum(sizes)[:-1].tolist(), axis)]
    return list(torch.split(call.tensor(0), sizes, axis))


@operator("Gather", attributes="axis")
def gather(call: Call) -> Result:
    hosts = call.hosts()
    axis = call.attribute("axis", 0)
    if hosts is not None:
        chosen: Any = np.take(hosts[0].items, hosts[1].items.astype(np.int64), axis_of(call, axis, hosts[0].items.ndim))
        return Host(chosen, hosts[0].dtype) if isinstance(chosen, np.ndarray) else Host.of(chosen, hosts[0].dtype)
    x = call.tensor(0)
    axis = axis_of(call, axis, x.dim())
    indices, size = call.value(1), x.shape[axis]
    known = indices.numbers if isinstance(indices, Constant) else indices if isinstance(indices, Host) else None
    if known is not None and is_known(size) and any(not -size <= i < size for i in known.items.reshape(-1)):
        raise bad_graph(call.node.where, f"an index beyond the size {size}.")
    if known is not None and known.items.ndim == 0:
        return x.select(axis, known.items.item())
    places = call.tensor(1)
    if known is None or any(number < 0 for number in known.items.reshape(-1)):
        places = torch.where(places < 0, places + size, places)
    shape = [*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]]
    return x.index_select(axis, places.reshape(-1).long()).reshape(shape)


@operator("GatherElements", attributes="axis")
def gather_elements(call: Call) -> Tensor:
    x, places = call.tensor(0), call.tensor(1).long()
    axis = axis_of(call, call.attribute("axis", 0), x.dim())
    return torch.gather(x, axis, torch.where(places < 0, places + x.shape[axis], places))


@operator("ArgMax", "ArgMin", attributes="axis keepdims select_last_index")
def arg_extreme(call: Call) -> Tensor:
    call.require("select_last_index", 0)
    x = call.tensor(0)
    function = torch.argmax if call.node.op == "ArgMax" else torch.argmin
    return function(x, axis_of(call, call.attribute("axis", 0), x.dim()), bool(call.attribute("keepdims", 1)))


@operator("TopK", attributes="axis largest sorted")
def top_k(call: Call) -> Result:
    x = call.tensor(0)
    axis = axis_of(call, call.attribute("axis", -1), x.dim())
    return list(torch.topk(x, call.number(1), axis, bool(call.attribute("largest", 1)), True))


@operator("Pad", attributes="mode")
def pad(call: Call) -> Tensor:
    x = call.tensor(0)
    amounts = call.ints(1)
    axes = [axis_of(call, axis, x.dim()) for axis in (call.ints(3) if call.has(3) else range(x.dim()))]
    if len(amounts) != 2 * len(axes):
        raise bad_graph(call.node.where, f"{len(amounts)} amounts for {len(axes)} axes.")
    around: dict[int, tuple[int, int]] = {
        axis: (amounts[place], amounts[place + len(axes)]) for place, axis in enumerate(axes)
    }
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    mode = modes[call.require("mode", "constant", *modes)]
    if mode == "circular" and call.opset < 19:
        raise call.unsupported("mode='wrap'")
    used = [axis for axis, pair in around.items() if not all(is_known(size) and size == 0 for size in pair)]
    if not used:
        return x
    first = min(used)
    if mode == "constant":
        return F.pad(x, _flat(around, first, x.dim()), value=call.number(2, 0.0))
    # torch pads the last axes of a tensor with exactly one or two axes before them.
    if x.dim() == 2 and first == 1:
        return F.pad(x, _flat(around, 1, 2), mode=mode)
    if first >= 2 and x.dim() <= 5:
        return F.pad(x, _flat(around, 2, x.dim()), mode=mode)
    if first == 1 and x.dim() <= 4:
        return F.pad(x.unsqueeze(0), _flat(around, 1, x.dim()), mode=mode).squeeze(0)
    raise call.unsupported(f"mode='{mode}' on axis {first} of {x.dim()}")


def _flat(around: dict[int, tuple[int, int]], first: int, rank: int) -> list[int]:
    return [size for axis in reversed(range(first, rank)) for size in around.get(axis, (0, 0))]
