"""The selection of source channels moves into the convolution that makes them.

Pattern: ``conv2d -> (elementwise)* -> active_shift(source)``, each read by the next one only.
Algebra: choosing rows commutes with everything done row by row, so the producer makes the chosen rows itself:
``W' = W[source]``, ``b' = b[source]``. Done where the rows made more than once cost less than copying them would.
"""

from __future__ import annotations

import torch
from torch import fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.ir.graph import arguments, aten, attribute, copy_graph
from aslconvert.converter.passes.parameters import drop_unused, put_parameter, read_targets, readers, stored
from aslconvert.converter.passes.verify import verify

MACS_PER_COPY = 16
"""How many multiply-adds of a matrix product take as long as copying one number; measured, and rough."""

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


def absorb_sources(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` in which shifts read their channels in order (source None) where the producer can see to it."""
    gm = copy_graph(gm)
    before = read_targets(gm)
    for node in list(gm.graph.nodes):
        if node.target is torch.ops.asl.active_shift.default and node.args[2] is not None:
            chain = _chain(node)
            if chain is not None and _worthwhile(gm, node, chain[-1]):
                _absorb(gm, node, chain)
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


def _chain(shift: fx.Node) -> list[fx.Node] | None:
    """The elementwise nodes before ``shift`` and, last, the conv2d they start from."""
    chain: list[fx.Node] = []
    node = arguments(shift)["x"]
    while isinstance(node, fx.Node) and len(node.users) == 1:
        chain.append(node)
        if node.target is aten.conv2d.default:
            return chain
        if node.target not in ELEMENTWISE:
            return None
        node = node.args[0]
    return None


def _worthwhile(gm: fx.GraphModule, shift: fx.Node, conv: fx.Node) -> bool:
    call, mix = arguments(shift), arguments(conv)
    parameters = [mix["weight"], *([] if mix["bias"] is None else [mix["bias"]])]
    if mix["groups"] != 1 or not stored(call["source"]) or not all(stored(node) for node in parameters):
        return False
    if any(readers(gm, node.target) != {conv} for node in parameters):
        return False
    weight = attribute(gm, mix["weight"].target)
    rows = len(attribute(gm, call["source"].target))
    extra = (rows - weight.shape[0]) * weight[0].numel()
    return bool(extra <= MACS_PER_COPY * rows)


def _absorb(gm: fx.GraphModule, shift: fx.Node, chain: list[fx.Node]) -> None:
    source = attribute(gm, arguments(shift)["source"].target)
    mix = arguments(chain[-1])
    for node in (mix["weight"], mix["bias"]):
        if node is not None:
            put_parameter(gm, str(node.target), attribute(gm, node.target).detach()[source].clone())
    for node in chain:
        batch, _, *spatial = node.meta["shape"]
        node.meta = {**node.meta, "shape": (batch, len(source), *spatial)}
    shift.update_arg(2, None)
