"""Shifted rows with a choice of source channels become rows that read every channel in order.

Pattern: ``[conv -> (elementwise)* ->] active_shift(x, shift, source) -> 1x1 conv P``.
Algebra: the K rows are dealt out to m branches that each read channel after channel, so that
``P . S(x) = sum_j P_j . S_j(x)`` with zero columns where a branch has no row for a channel. A producer that nothing
else reads may give its channels more or fewer times (``W' = W[index]``, ``b' = b[index]``: choosing rows commutes with
everything done row by row), which saves branches and padding. Whatever costs least is done; else ``source`` stays and
is lowered to a copy of channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.ir.graph import CONV_BY_AXES, arguments, aten, attribute, copy_graph
from aslconvert.converter.passes.fuse import pointwise_reader
from aslconvert.converter.passes.parameters import drop_unused, free_name, put_parameter, read_targets, readers, stored
from aslconvert.converter.passes.verify import verify

MACS_PER_SHIFTED_ROW = 48
MACS_PER_COPIED_ROW = 120
"""What one depthwise row and one copied row cost, in multiply-adds of a 1x1 convolution: fitted to chains of eight
layers of 64 channels at 128x128 in ONNX Runtime on one core. A copy costs so much since it also breaks the blocked
memory layout around it; a depthwise convolution with several outputs a channel is slower still and never made."""

CHANNEL_BLOCK = 16
"""Rows are filled up to a multiple of this: ONNX Runtime's blocked layout (16 floats a vector) takes no other number
of channels in a depthwise convolution, and falling out of it halves the speed of the whole network."""

ELEMENTWISE = {
    aten.relu.default,
    aten.relu_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.silu.default,
    aten.silu_.default,
    aten.gelu.default,
    aten.elu.default,
    aten.elu_.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.dropout.default,
}


@dataclass(frozen=True)
class _Plan:
    """``index`` [S]: the producer's row for each slot (None: leave the producer alone). ``rows`` [m, S]: the row of
    the block that branch j reads from the slot, or -1."""

    index: Tensor | None
    rows: Tensor


def arrange_sources(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` in which shifts read their channels in order (source None) wherever that is cheaper."""
    gm = copy_graph(gm)
    before = read_targets(gm)
    done: set[str] = set()
    # Backwards: a layer's convolution is still one when the layer after it asks it for other rows.
    for node in reversed(list(gm.graph.nodes)):
        if node.target is not torch.ops.asl.active_shift.default or node.args[2] is None:
            continue
        shift = arguments(node)["shift"].target
        if shift not in done:
            done.add(shift)
            _arrange(gm, sorted(readers(gm, shift), key=str))
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


def _arrange(gm: fx.GraphModule, tied: list[fx.Node]) -> None:
    convs = [pointwise_reader(node) for node in tied if node.target is torch.ops.asl.active_shift.default]
    call = arguments(tied[0])
    if len(convs) != len(tied) or None in convs or readers(gm, call["source"].target) != set(tied):
        return
    weight = arguments(convs[0])["weight"] if convs[0] is not None else None
    if weight is None or readers(gm, weight.target) != set(convs):
        return
    chain = _chain(gm, tied[0]) if len(tied) == 1 else None
    channels = {node.args[0].meta["shape"][1] for node in tied if isinstance(node.args[0], fx.Node)}
    if len(channels) != 1:
        return
    plan = _cheapest(gm, tied[0], weight, chain, channels.pop())
    if plan is None:
        return
    if plan.index is not None and chain is not None:
        _choose_rows(gm, chain, plan.index)
    _split(gm, tied, plan)


def _cheapest(
    gm: fx.GraphModule, node: fx.Node, weight: fx.Node, chain: list[fx.Node] | None, channels: int
) -> _Plan | None:
    source = attribute(gm, arguments(node)["source"].target)
    outputs, rows = attribute(gm, weight.target).shape[:2]
    per_row = outputs + MACS_PER_SHIFTED_ROW
    counts = torch.bincount(source, minlength=channels)
    best = rows * (per_row + MACS_PER_COPIED_ROW)
    plan = None
    most = int(counts.max())
    if most * channels * per_row < best:
        best = most * channels * per_row
        plan = _deal(source, torch.arange(channels, device=source.device), most, None)
    if chain is None:
        return plan
    producer = attribute(gm, arguments(chain[-1])["weight"].target)[0].numel()
    for branches in range(1, most + 1):
        slots = (counts + branches - 1) // branches
        total = math.ceil(int(slots.sum()) / CHANNEL_BLOCK) * CHANNEL_BLOCK
        cost = (total - channels) * producer + branches * total * per_row
        if cost < best:
            # The filling repeats the first channel; no row of the block reads it there.
            index = torch.arange(channels, device=source.device).repeat_interleave(slots)
            index = torch.cat([index, index.new_zeros(total - len(index))])
            best, plan = cost, _deal(source, index, branches, index)
    return plan


def _deal(source: Tensor, channel: Tensor, branches: int, index: Tensor | None) -> _Plan:
    rows = torch.full((branches, len(channel)), -1, dtype=torch.int64, device=source.device)
    free: dict[int, list[tuple[int, int]]] = {c: [] for c in channel.tolist()}
    for slot, c in enumerate(channel.tolist()):
        free[c].extend((branch, slot) for branch in range(branches))
    for row, c in enumerate(source.tolist()):
        rows[free[c].pop(0)] = row
    return _Plan(index, rows)


def _chain(gm: fx.GraphModule, shift: fx.Node) -> list[fx.Node] | None:
    """The elementwise nodes before ``shift`` and, last, the conv they start from, when its rows can be chosen."""
    chain: list[fx.Node] = []
    node = arguments(shift)["x"]
    while isinstance(node, fx.Node) and len(node.users) == 1:
        chain.append(node)
        if node.target in CONV_BY_AXES.values():
            return chain if _owns_its_rows(gm, node) else None
        if node.target not in ELEMENTWISE:
            return None
        node = node.args[0]
    return None


def _owns_its_rows(gm: fx.GraphModule, conv: fx.Node) -> bool:
    mix = arguments(conv)
    parameters = [mix["weight"], *([] if mix["bias"] is None else [mix["bias"]])]
    dense = mix["groups"] == 1 and all(stored(node) for node in parameters)
    return dense and all(readers(gm, node.target) == {conv} for node in parameters)


def _choose_rows(gm: fx.GraphModule, chain: list[fx.Node], index: Tensor) -> None:
    mix = arguments(chain[-1])
    for node in (mix["weight"], mix["bias"]):
        if node is not None:
            put_parameter(gm, str(node.target), attribute(gm, node.target).detach()[index].clone())
    for node in chain:
        batch, _, *spatial = node.meta["shape"]
        node.meta = {**node.meta, "shape": (batch, len(index), *spatial)}


def _split(gm: fx.GraphModule, tied: list[fx.Node], plan: _Plan) -> None:
    """Put ``sum_j P_j . S_j(x)`` in the place of each tied site's shift and 1x1 convolution."""
    call, first = arguments(tied[0]), next(iter(tied[0].users))
    weight_target, shift_target = str(arguments(first)["weight"].target), str(call["shift"].target)
    shift, weight = attribute(gm, shift_target).detach(), attribute(gm, weight_target).detach()
    names: list[tuple[str, ...]] = []
    for branch, rows in enumerate(plan.rows):
        used = rows >= 0
        taken = rows.clamp(min=0)
        targets = (shift_target, weight_target)
        names.append(targets if branch == 0 else tuple(free_name(gm, f"{name}_{branch + 1}") for name in targets))
        put_parameter(gm, names[-1][0], shift[taken] * used[:, None])
        put_parameter(gm, names[-1][1], weight[:, taken] * used.view(-1, *[1] * shift.shape[1]))
    for node in tied:
        _branch(gm.graph, node, next(iter(node.users)), names, plan.rows.shape[1])


def _branch(graph: fx.Graph, node: fx.Node, conv: fx.Node, names: list[tuple[str, ...]], slots: int) -> None:
    call, total = arguments(node), None
    batch, _, *spatial = node.meta["shape"]
    with graph.inserting_before(conv):
        for shift, weight in names:
            inputs = (call["x"], graph.get_attr(shift), None, call["stride"], call["delta"])
            rows = graph.call_function(torch.ops.asl.active_shift.default, inputs)
            rows.meta = {**node.meta, "shape": (batch, slots, *spatial)}
            bias = arguments(conv)["bias"] if total is None else None
            mixed = graph.call_function(CONV_BY_AXES[len(spatial)], (rows, graph.get_attr(weight), bias))
            mixed.meta = dict(conv.meta)
            if total is not None:
                mixed = graph.call_function(aten.add.Tensor, (total, mixed))
                mixed.meta = dict(conv.meta)
            total = mixed
    conv.replace_all_uses_with(total)  # type: ignore[arg-type]
    graph.erase_node(conv)
    graph.erase_node(node)
