"""active_shift -> 1x1 conv in C groups becomes a sum of weighted shifts.

Pattern: the rows of each of C channels stand together and are mixed by a 1x1 convolution with C groups and C outputs.
Algebra: ``y_c = b_c + sum_j w_cj . S(x)_cj``, one shift of all channels for each j. The library's grouped 1x1 with one
channel a group took two to four times as long as this at 96 channels of 56x56.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.ir.graph import CONV_BY_AXES, arguments, aten, attribute, copy_graph
from aslconvert.converter.passes.parameters import drop_unused, put_parameter, read_targets, stored
from aslconvert.converter.passes.verify import verify


def sum_shifts(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` whose depthwise blocks are sums of shifts, for running with aslconvert's kernels."""
    gm = copy_graph(gm)
    before = read_targets(gm)
    for node in list(gm.graph.nodes):
        if node.target is not torch.ops.asl.active_shift.default:
            continue
        mixer = channel_mixer(gm, node)
        if mixer is not None and arguments(mixer)["groups"] == mixer.meta["shape"][1]:
            _expand(gm, node, mixer)
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


def channel_mixer(gm: fx.GraphModule, shift: fx.Node) -> fx.Node | None:
    """The 1x1 convolution in C groups that alone reads the rows of C channels, each channel's rows side by side."""
    conv = next(iter(shift.users)) if len(shift.users) == 1 else None
    if conv is None or conv.target not in CONV_BY_AXES.values():
        return None
    call, mix = arguments(shift), arguments(conv)
    channels = call["x"].meta["shape"][1]
    if channels == 1 or mix["input"] is not shift or mix["groups"] != channels or not stored(mix["weight"]):
        return None
    if not stored(call["shift"]) or attribute(gm, mix["weight"].target).shape[2:].numel() != 1:
        return None
    rows = attribute(gm, call["shift"].target).shape[0]
    expected = torch.arange(channels).repeat_interleave(rows // channels)
    source = call["source"]
    in_order = rows == channels if source is None else torch.equal(attribute(gm, source.target).cpu(), expected)
    return conv if in_order else None


def _expand(gm: fx.GraphModule, node: fx.Node, mixer: fx.Node) -> None:
    call, mix = arguments(node), arguments(mixer)
    shift_target, weight_target = str(call["shift"].target), str(mix["weight"].target)
    prefix = weight_target.removesuffix(".weight")
    shift, weight = attribute(gm, shift_target).detach(), attribute(gm, weight_target).detach()
    channels, each = weight.shape[:2]
    axes = shift.shape[1]
    graph = gm.graph
    total: fx.Node | None = mix["bias"]
    with graph.inserting_before(mixer):
        if total is not None:
            # An own copy in the shape that broadcasts: others may read the bias as it is.
            total = _stored(gm, f"{prefix}.offset", attribute(gm, total.target).detach().view(channels, *[1] * axes))
        for j in range(each):
            moved = _stored(gm, f"{prefix}.shift_{j + 1}", shift.view(channels, each, axes)[:, j])
            factor = _stored(gm, f"{prefix}.factor_{j + 1}", weight[:, j])
            inputs = (call["x"], moved, None, call["stride"], call["delta"])
            rows = graph.call_function(torch.ops.asl.active_shift.default, inputs)
            rows.meta = dict(mixer.meta)
            if total is None:
                total = graph.call_function(aten.mul.Tensor, (rows, factor))
            else:
                total = graph.call_function(aten.addcmul.default, (total, rows, factor))
            total.meta = dict(mixer.meta)
    mixer.replace_all_uses_with(total)  # type: ignore[arg-type]
    graph.erase_node(mixer)
    graph.erase_node(node)


def _stored(gm: fx.GraphModule, target: str, value: Tensor) -> fx.Node:
    """Tied blocks write the same values under the same name."""
    if not any(node.op == "get_attr" and node.target == target for node in gm.graph.nodes):
        put_parameter(gm, target, value.clone())
    return gm.graph.get_attr(target)
