"""Max pooling without overlap as elementwise maxima of strided views.

Pattern: ``max_pool2d`` with stride = kernel, no padding, dilation 1, floor sizes. Algebra: a pooled pixel is the
maximum over the kernel's positions of the image read with that stride, one axis after the other. torch's own contiguous
max_pool2d on the CPU was ten times slower than this at 64 x 32 x 28 x 28; the values, NaN included, are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from aslconvert.converter.ir.graph import arguments, aten, copy_graph
from aslconvert.converter.passes.verify import verify

WIDEST = 3
"""Kernels above this size read each line of memory too often."""


def pool_as_maxima(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` with its non-overlapping 2-D max pools rewritten; others stay."""
    gm = copy_graph(gm)
    for node in list(gm.graph.nodes):
        if node.op == "call_function" and node.target is aten.max_pool2d.default:
            kernel = _kernel(node)
            if kernel is not None:
                _rewrite(gm.graph, node, kernel)
    gm.recompile()
    return verify(gm)


def _kernel(node: fx.Node) -> tuple[int, int] | None:
    call = arguments(node)
    kernel = _pair(call["kernel_size"])
    # An absent stride means the kernel's size.
    stride = _pair(call["stride"]) if call["stride"] else kernel
    plain = _pair(call["padding"]) == (0, 0) and _pair(call["dilation"]) == (1, 1) and not call["ceil_mode"]
    shape = _image(node).meta.get("shape")
    if kernel is None or stride != kernel or not plain or max(kernel) > WIDEST or shape is None or len(shape) != 4:
        return None
    return kernel


def _image(node: fx.Node) -> fx.Node:
    image = node.args[0]
    if not isinstance(image, fx.Node):
        raise TypeError(f"the pool {node.name} reads no node")
    return image


def _pair(value: object) -> tuple[int, int] | None:
    items: Sequence[object] = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(item, int) for item in items) or len(items) not in (1, 2):
        return None
    return int(str(items[0])), int(str(items[-1]))


def _rewrite(graph: fx.Graph, node: fx.Node, kernel: tuple[int, int]) -> None:
    value = _image(node)
    with graph.inserting_before(node):
        for axis, size in zip((2, 3), kernel, strict=True):
            value = _maximum(graph, value, axis, size)
    value.meta = {key: node.meta[key] for key in ("shape", "dtype", "nn_module_stack") if key in node.meta}
    node.replace_all_uses_with(value)
    graph.erase_node(node)


def _maximum(graph: fx.Graph, value: fx.Node, axis: int, size: int) -> fx.Node:
    if size == 1:
        return value
    end = torch.iinfo(torch.int64).max
    views = [graph.call_function(aten.slice.Tensor, (value, axis, first, end, size)) for first in range(size)]
    # The last view is the shortest: what it does not reach belongs to no whole window.
    length = graph.call_function(aten.sym_size.int, (views[-1], axis))
    result = views[-1]
    for view in views[:-1]:
        whole = graph.call_function(aten.slice.Tensor, (view, axis, 0, length))
        result = graph.call_function(aten.maximum.default, (result, whole))
    return result
