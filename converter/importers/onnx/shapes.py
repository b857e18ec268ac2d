"""Operators on shapes: reading one, changing one, and making tensors of one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aslconvert.converter.importers.onnx.call import Call, axis_of
from aslconvert.converter.importers.onnx.file import MAX_ELEMENTS
from aslconvert.converter.importers.onnx.refusals import bad_graph, too_large
from aslconvert.converter.importers.onnx.registry import Result, operator
from aslconvert.converter.importers.onnx.values import SMALL, Constant, Host, is_known


@operator("Constant", attributes="value value_float value_floats value_int value_ints")
def constant(call: Call) -> Tensor:
    (name, value), *others = call.node.attributes.items() or [("", None)]
    if others or value is None:
        raise bad_graph(call.node.where, "it must hold exactly one value.")
    if isinstance(value, Constant):
        return value.value
    return torch.tensor(value, dtype=torch.int64 if "int" in name else torch.float32)


@operator("Identity")
def identity(call: Call) -> Result:
    return call.value(0) if isinstance(call.value(0), Host) else call.tensor(0)


@operator("Shape", attributes="end start")
def shape(call: Call) -> Host:
    value = call.value(0)
    sizes = list(value.items.shape if isinstance(value, Host) else call.tensor(0).shape)
    start, end = call.node.attributes.get("start", 0), call.node.attributes.get("end")
    return Host.of(sizes[slice(start, end)])


@operator("Size")
def size(call: Call) -> Host:
    return Host.of(math.prod(call.tensor(0).shape))


@operator("Reshape", attributes="allowzero")
def reshape(call: Call) -> Result:
    value, wanted = call.value(0), call.ints(1)
    sizes = value.items.shape if isinstance(value, Host) else call.tensor(0).shape
    if not call.attribute("allowzero", 0):
        if any(_is_zero(size) and axis >= len(sizes) for axis, size in enumerate(wanted)):
            raise bad_graph(call.node.where, "its shape keeps a size that the input does not have.")
        wanted = [sizes[axis] if _is_zero(size) else size for axis, size in enumerate(wanted)]
    if isinstance(value, Host):
        return Host(value.items.reshape(wanted), value.dtype)
    return call.tensor(0).reshape(wanted)


def _is_zero(size: Any) -> bool:
    return is_known(size) and size == 0


@operator("Flatten", attributes="axis")
def flatten(call: Call) -> Tensor:
    x = call.tensor(0)
    axis = call.attribute("axis", 1)
    if axis == x.dim():
        return x.reshape(-1, 1)
    axis = axis_of(call, axis, x.dim())
    if axis == 0:
        return x.reshape(1, -1)
    return torch.flatten(x if axis == 1 else torch.flatten(x, 0, axis - 1), 1)


@operator("Transpose", attributes="perm")
def transpose(call: Call) -> Result:
    value = call.value(0)
    rank = value.items.ndim if isinstance(value, Host) else call.tensor(0).dim()
    order = call.int_list("perm", rank, 0) if "perm" in call.node.attributes else list(reversed(range(rank)))
    if sorted(order) != list(range(rank)):
        raise bad_graph(call.node.where, f"{order} is no order of {rank} axes.")
    if isinstance(value, Host):
        return Host(value.items.transpose(order), value.dtype)
    return call.tensor(0).permute(order)


@operator("Squeeze")
def squeeze(call: Call) -> Result:
    value = call.value(0)
    axes = call.ints(1) if call.has(1) else None
    if isinstance(value, Host):
        return Host(value.items.squeeze(None if axes is None else tuple(axes)), value.dtype)
    x = call.tensor(0)
    if axes is None:
        # Only sizes that are known to be 1: a dynamic one is taken to be larger.
        axes = [axis for axis, size in enumerate(x.shape) if is_known(size) and size == 1]
    axes = [axis_of(call, axis, x.dim()) for axis in axes]
    for axis in axes:
        if is_known(x.shape[axis]) and x.shape[axis] != 1:
            raise bad_graph(call.node.where, f"axis {axis} has the size {x.shape[axis]}.")
    return x.squeeze(axes)


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Result:
    value, axes = call.value(0), call.ints(1)
    rank = (value.items.ndim if isinstance(value, Host) else call.tensor(0).dim()) + len(axes)
    places = sorted(axis_of(call, axis, rank) for axis in axes)
    if isinstance(value, Host):
        return Host(np.expand_dims(value.items, tuple(places)), value.dtype)
    x = call.tensor(0)
    for axis in places:
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(call: Call) -> Tensor:
    x, wanted = call.tensor(0), call.ints(1)
    rank = max(x.dim(), len(wanted))
    own = [1] * (rank - x.dim()) + list(x.shape)
    wanted = [1] * (rank - len(wanted)) + wanted
    # Broadcasting goes both ways: a wanted size of 1 keeps the tensor's own.
    target = [mine if is_known(size) and size == 1 else size for mine, size in zip(own, wanted, strict=True)]
    _limit(call, target)
    return x.reshape(own).expand(target) if rank > x.dim() else x.expand(target)


@operator("Tile")
def tile(call: Call) -> Tensor:
    x, repeats = call.tensor(0), call.ints(1)
    if len(repeats) != x.dim():
        raise bad_graph(call.node.where, f"{len(repeats)} repeats of {x.dim()} axes.")
    _limit(call, [size * count for size, count in zip(x.shape, repeats, strict=True)])
    return x.repeat(repeats)


@operator("ConstantOfShape", attributes="value")
def constant_of_shape(call: Call) -> Result:
    sizes = call.ints(0)
    value = call.node.attributes.get("value")
    known = value.numbers if isinstance(value, Constant) else Host.of([0.0], torch.float32)
    if known is None or known.items.size != 1:
        raise bad_graph(call.node.where, "its value is not one element.")
    _limit(call, sizes)
    item = known.items.reshape(-1)[0]
    if isinstance(call.value(0), Host) and len(sizes) <= 1 and all(is_known(s) and s <= SMALL for s in sizes):
        return Host(np.full(sizes, item, dtype=object), known.dtype)
    return torch.full(sizes, item, dtype=known.dtype)


@operator("Range")
def range_(call: Call) -> Result:
    start, stop, step = (call.number(index) for index in range(3))
    dtype = call.host(0).dtype
    if step == 0:
        raise bad_graph(call.node.where, "its step is 0.")
    _limit(call, [max((stop - start) // step, 0)])
    return torch.arange(start, stop, step, dtype=dtype)


@operator("Concat", attributes="axis")
def concat(call: Call) -> Result:
    hosts = call.hosts()
    axis = call.attribute("axis", 0)
    if hosts is not None:
        return Host(np.concatenate([host.items for host in hosts], axis), hosts[0].dtype)
    tensors = [call.tensor(index) for index in range(len(call.values)) if call.has(index)]
    return torch.cat(tensors, axis_of(call, axis, tensors[0].dim()))


@operator("DepthToSpace", attributes="blocksize mode")
def depth_to_space(call: Call) -> Tensor:
    x, block = call.tensor(0), _block(call)
    if x.dim() != 4 or x.shape[1] % block**2:
        raise bad_graph(call.node.where, f"{x.shape[1]} channels in blocks of {block}x{block}.")
    if call.require("mode", "DCR", "DCR", "CRD") == "CRD":
        return torch.pixel_shuffle(x, block)
    depth = x.shape[1] // block**2
    parts: Tensor = x.reshape(-1, block, block, depth, *x.shape[2:]).permute(0, 3, 4, 1, 5, 2)
    return parts.flatten(4, 5).flatten(2, 3)


@operator("SpaceToDepth", attributes="blocksize")
def space_to_depth(call: Call) -> Tensor:
    x, block = call.tensor(0), _block(call)
    y = torch.pixel_unshuffle(x, block)
    return y.reshape(-1, x.shape[1], block**2, *y.shape[2:]).transpose(1, 2).flatten(1, 2)


def _block(call: Call) -> int:
    block: int = call.attribute("blocksize", 0)
    if block < 1:
        raise bad_graph(call.node.where, f"its block size is {block}.")
    return block


def _limit(call: Call, sizes: list[Any]) -> None:
    known = [size for size in sizes if is_known(size)]
    if any(size < 0 for size in known):
        raise bad_graph(call.node.where, f"its shape is {known}.")
    if math.prod(known) > MAX_ELEMENTS:
        raise too_large(call.node.where, f"its output has the shape {known}.")
