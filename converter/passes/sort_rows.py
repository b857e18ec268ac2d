"""The rows of each shift in the order of their source channels.

Pattern: ``active_shift`` read only by a 1x1 ``conv2d``. Algebra: ``P . S = (P Q^T) . (Q S)`` for a permutation Q of
rows. Sorted rows read memory in order, and need no selection at all where every channel is read equally often.
"""

from __future__ import annotations

import torch
from torch import fx

from aslconvert.converter.ir.graph import arguments, attribute, copy_graph
from aslconvert.converter.passes.fuse import pointwise_reader
from aslconvert.converter.passes.parameters import put_buffer, put_parameter, readers
from aslconvert.converter.passes.verify import verify


def sort_rows(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` with rows sorted by source channel, then by shift, wherever nothing else sees their order."""
    gm = copy_graph(gm)
    done: set[str] = set()
    for node in gm.graph.nodes:
        if node.target is not torch.ops.asl.active_shift.default or node.args[2] is None:
            continue
        call = arguments(node)
        conv = pointwise_reader(node)
        if conv is None or call["source"].target in done:
            continue
        weight = arguments(conv)["weight"].target
        parts = (call["shift"].target, call["source"].target, weight)
        if not _private(gm, parts):
            continue
        done.add(call["source"].target)
        shift, source, mix = (attribute(gm, target).detach() for target in parts)
        order = torch.argsort(source, stable=True)
        if not torch.equal(order, torch.arange(len(order), device=order.device)):
            put_parameter(gm, parts[0], shift[order].clone())
            put_buffer(gm, parts[1], source[order].clone())
            put_parameter(gm, parts[2], mix[:, order].clone())
    return verify(gm)


def _private(gm: fx.GraphModule, parts: tuple[str, str, str]) -> bool:
    """Whether shift, source and weight are only ever read together, as by tied sites."""
    shifts = readers(gm, parts[0])
    convs = {pointwise_reader(shift) for shift in shifts if shift.target is torch.ops.asl.active_shift.default}
    return shifts == readers(gm, parts[1]) and None not in convs and convs == readers(gm, parts[2])
