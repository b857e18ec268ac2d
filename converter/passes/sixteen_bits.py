"""asl.shift_pointwise -> asl.shift_pointwise_int16: weights and samples as integers of 16 bits.

Pattern: fused calls on images of two axes at stride one, in float32, with stored weights and no more rows than the
kernel takes; others stay.
Algebra: a channel's weights are rounded to integers of its own scale, the samples to integers of each image's scale,
their sums are exact. What is rounded off is about 1e-4 of a layer's output: another function than the float one, so
that this form is scored by itself.
"""

from __future__ import annotations

import torch
from torch import fx

from aslconvert.converter.ir.graph import arguments, attribute, copy_graph
from aslconvert.converter.passes.parameters import drop_unused, free_name, put_buffer, read_targets, stored
from aslconvert.converter.passes.verify import verify
from aslconvert.kernels.reference import pack_int16

MOST_ROWS = 2048
"""Rows beyond which the kernel computes in float32 all the same."""


def sixteen_bits(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` (on the fused op) whose fused calls compute in 16 bits, as far as the kernel has them."""
    gm = copy_graph(gm)
    before = read_targets(gm)
    packed: dict[str, tuple[str, str]] = {}
    for node in list(gm.graph.nodes):
        if node.target is torch.ops.asl.shift_pointwise.default and _fits(gm, node):
            _round(gm, node, packed)
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


def _fits(gm: fx.GraphModule, node: fx.Node) -> bool:
    call = arguments(node)
    if list(call["stride"]) != [1, 1] or not stored(call["weight"]):
        return False
    weight = attribute(gm, call["weight"].target)
    return weight.dtype == torch.float32 and 0 < weight.shape[1] <= MOST_ROWS and bool(weight.isfinite().all())


def _round(gm: fx.GraphModule, node: fx.Node, packed: dict[str, tuple[str, str]]) -> None:
    call = arguments(node)
    target = str(call["weight"].target)
    if target not in packed:
        whole, scale = pack_int16(attribute(gm, target).detach())
        names = free_name(gm, f"{target}_int16"), free_name(gm, f"{target}_scale")
        put_buffer(gm, names[0], whole)
        put_buffer(gm, names[1], scale)
        packed[target] = names
    with gm.graph.inserting_before(node):
        weight, scale_node = (gm.graph.get_attr(name) for name in packed[target])
        rounded = gm.graph.call_function(
            torch.ops.asl.shift_pointwise_int16.default,
            (
                call["x"],
                call["shift"],
                call["source"],
                weight,
                scale_node,
                call["bias"],
                call["stride"],
                call["delta"],
                call["relu"],
                call["residual"],
            ),
        )
    rounded.meta = dict(node.meta)
    node.replace_all_uses_with(rounded)
    gm.graph.erase_node(node)
