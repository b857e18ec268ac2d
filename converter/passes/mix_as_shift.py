"""Plain 1x1 convolutions as shifted rows that do not move, so that ``fuse`` gives them the fused op and its epilogue.

Pattern: ``conv2d`` with a stored dense 1x1 kernel of any stride, without padding, in float32. Algebra: a row shifted by
nothing is its channel; the stride moves from the convolution to the shift. In channels_last the kernels read such rows
in place, and take bias, residual and ReLU along, which the library's convolution leaves to ops of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.ir.graph import arguments, aten, attribute, copy_graph
from aslconvert.converter.passes.parameters import free_name, put_buffer, stored
from aslconvert.converter.passes.verify import verify

LEAST_CHANNELS = 16
"""Of the image and of the output: with fewer the kernels' vectors run partly empty."""


def mix_as_shift(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` whose plain 1x1 convolutions read an ``active_shift`` by zero."""
    return _mixed(gm, lambda call: True)


def mix_stride_one(gm: fx.GraphModule) -> fx.GraphModule:
    """The same, but only of stride one: those that the kernel has in 16 bits."""
    return _mixed(gm, lambda call: all(step == 1 for step in _pair(call["stride"])))


def _mixed(gm: fx.GraphModule, wanted: Callable[[dict[str, Any]], bool]) -> fx.GraphModule:
    gm = copy_graph(gm)
    for node in list(gm.graph.nodes):
        if node.target is aten.conv2d.default and _plain(gm, node) and wanted(arguments(node)):
            _rewrite(gm, node)
    gm.recompile()
    return verify(gm)


def _plain(gm: fx.GraphModule, node: fx.Node) -> bool:
    call = arguments(node)
    image, weight = call["input"], call["weight"]
    if not stored(weight) or call["groups"] != 1 or image.target is torch.ops.asl.active_shift.default:
        return False
    values, shape = attribute(gm, weight.target), image.meta.get("shape")
    dense = values.shape[2:] == (1, 1) and min(values.shape[:2]) >= LEAST_CHANNELS and values.dtype == torch.float32
    bare = all(item == 0 for item in _pair(call["padding"])) and all(type(s) is int for s in _pair(call["stride"]))
    return bool(dense and bare and shape is not None and len(shape) == 4 and "shape" in node.meta)


def _pair(value: Any) -> list[Any]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    return items * 2 if len(items) == 1 else items


def _rewrite(gm: fx.GraphModule, node: fx.Node) -> None:
    call = arguments(node)
    channels = attribute(gm, call["weight"].target).shape[1]
    name = free_name(gm, f"{call['weight'].target}_unmoved")
    put_buffer(gm, name, torch.zeros(channels, 2))
    with gm.graph.inserting_before(node):
        shift = gm.graph.get_attr(name)
        # One pixel less than the image, so that a stride leaves as many as it does to the convolution.
        rows = gm.graph.call_function(
            torch.ops.asl.active_shift.default, (call["input"], shift, None, _pair(call["stride"]), [-1, -1])
        )
    rows.meta = {"shape": (*node.meta["shape"][:1], channels, *node.meta["shape"][2:]), "dtype": torch.float32}
    one, none = [1, 1], [0, 0]
    node.args = (rows, call["weight"], call["bias"], one, none, one, 1)
    node.kwargs = {}
