"""The fused op's weights packed, its rows in the order that the kernels read fastest, and images in channels_last.

Algebra: the K rows of a block may stand in any order, as long as the columns of its 1x1 weight follow; packing and
layouts move values about and change none. Between its first and its last image the network then converts no layout.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.ir.graph import arguments, aten, attribute, copy_graph, views_to_reshapes
from aslconvert.converter.passes.parameters import (
    drop_unused,
    free_name,
    put_buffer,
    put_parameter,
    read_targets,
    readers,
    stored,
)
from aslconvert.converter.passes.verify import verify

WINDOW = 16
"""Channels that the kernels load at once: rows that read the same ones stand together."""


def channels_last(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` (on the fused op, float32) that runs in channels_last; gm itself where no op gains from it.

    Inputs and outputs keep the layout that callers know.
    """
    before = gm
    gm = copy_graph(gm)
    read = read_targets(gm)
    packed = [node for node in list(gm.graph.nodes) if _packable(gm, node)]
    if not packed:
        return before
    for node in packed:
        _sort_rows(gm, node)
    for node in packed:
        _pack(gm, node)
    _convert_images(gm)
    for part in gm.modules():
        if isinstance(part, fx.GraphModule):
            views_to_reshapes(part)
            part.recompile()
    gm.graph.eliminate_dead_code()
    drop_unused(gm, read)
    gm.recompile()
    return verify(gm)


def _packable(gm: fx.GraphModule, node: fx.Node) -> bool:
    if node.target is not torch.ops.asl.shift_pointwise.default:
        return False
    call = arguments(node)
    weight, shift = call["weight"], call["shift"]
    if not stored(weight) or not stored(shift):
        return False
    values = attribute(gm, weight.target)
    return bool(values.dtype == torch.float32 and attribute(gm, shift.target).shape[1] == 2)


def _sort_rows(gm: fx.GraphModule, node: fx.Node) -> None:
    """Rows by window of channels, then by offset: sixteen in a row then share few loads and few taps."""
    call = arguments(node)
    mine = [call["shift"], call["source"], call["weight"]]
    if not stored(call["source"]) or any(readers(gm, argument.target) != {node} for argument in mine):
        return
    shift, source, weight = (attribute(gm, argument.target).detach() for argument in mine)
    keys = zip((source // WINDOW).tolist(), shift.tolist(), source.tolist(), strict=True)
    order = torch.tensor([index for index, _ in sorted(enumerate(keys), key=lambda item: item[1])])
    put_parameter(gm, str(mine[0].target), shift[order].clone())
    put_buffer(gm, str(mine[1].target), source[order].clone())
    put_parameter(gm, str(mine[2].target), weight[:, order].clone())


def _pack(gm: fx.GraphModule, node: fx.Node) -> None:
    call = arguments(node)
    weight = attribute(gm, call["weight"].target)
    name = free_name(gm, f"{call['weight'].target}_packed".replace("weight_packed", "packed_weight"))
    with torch.no_grad():
        put_parameter(gm, name, torch.ops.asl.pack_pointwise(weight.detach()))
    with gm.graph.inserting_before(node):
        packed = gm.graph.get_attr(name)
        fused = gm.graph.call_function(
            torch.ops.asl.shift_pointwise_packed.default,
            (
                call["x"],
                call["shift"],
                call["source"],
                packed,
                weight.shape[0],
                call["bias"],
                call["stride"],
                call["delta"],
                call["relu"],
                call["residual"],
            ),
        )
    fused.meta = dict(node.meta)
    node.replace_all_uses_with(fused)
    gm.graph.erase_node(node)


def _convert_images(gm: fx.GraphModule) -> None:
    for node in list(gm.graph.nodes):
        if node.op == "placeholder" and _is_image(node):
            with gm.graph.inserting_after(node):
                last = gm.graph.call_function(aten.clone.default, (node,), {"memory_format": torch.channels_last})
            last.meta = dict(node.meta)
            node.replace_all_uses_with(last, delete_user_cb=lambda user, last=last: user is not last)
        elif node.target is aten.conv2d.default and stored(node.args[1]):
            weight = attribute(gm, node.args[1].target)
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        elif node.op == "output":
            with gm.graph.inserting_before(node):
                node.args = fx.node.map_arg(node.args, lambda value: _contiguous(gm, value))


def _is_image(node: fx.Node) -> bool:
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else node.meta.get("shape")
    return shape is not None and len(shape) == 4


def _contiguous(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    if not _is_image(node):
        return node
    copy = gm.graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
    copy.meta = dict(node.meta)
    return copy
