"""active_shift -> 1x1 conv [-> add] [-> relu] becomes asl.shift_pointwise.

Pattern: the only reader of the shifted rows is a dense 1x1 convolution; the addition of an image of the same shape (a
residual) that alone reads it joins in, and so does a ``relu`` that alone reads either.
Algebra: unchanged; the K shifted rows are never written to memory.
"""

from __future__ import annotations

import torch
from torch import fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.ir.graph import CONV_BY_AXES, arguments, aten, attribute, copy_graph
from aslconvert.converter.passes.parameters import drop_unused, put_parameter, read_targets, readers, stored
from aslconvert.converter.passes.verify import verify

RELUS = (aten.relu.default, aten.relu_.default)
ADDS = (aten.add.Tensor, aten.add_.Tensor)


def fuse(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` on the fused op, for running with aslconvert's kernels."""
    gm = copy_graph(gm)
    before = read_targets(gm)
    for node in list(gm.graph.nodes):
        if node.target is torch.ops.asl.active_shift.default:
            conv = pointwise_reader(node)
            if conv is not None:
                _fuse(gm, node, conv)
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


def pointwise_reader(shift: fx.Node) -> fx.Node | None:
    """The dense 1x1 convolution with stored weights that is the only reader of the shifted rows, if there is one."""
    if len(shift.users) != 1:
        return None
    conv = next(iter(shift.users))
    if conv.target not in CONV_BY_AXES.values():
        return None
    call = arguments(conv)
    dense = call["input"] is shift and call["groups"] == 1 and stored(call["weight"])
    unit = set(_flat(call["stride"])) == {1} and set(_flat(call["padding"])) == {0}
    return conv if dense and unit else None


def _flat(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _fuse(gm: fx.GraphModule, shift: fx.Node, conv: fx.Node) -> None:
    call, mix = arguments(shift), arguments(conv)
    target = str(mix["weight"].target)
    weight = attribute(gm, target)
    if weight.shape[2:].numel() != 1:
        return
    if weight.dim() > 2:
        # A weight that several calls share is reshaped by the first of them; the others follow below.
        if not all(_fusable(user) for user in readers(gm, target)):
            return
        put_parameter(gm, target, weight.detach().flatten(1))
    last, residual = conv, None
    add = next(iter(conv.users)) if len(conv.users) == 1 else None
    if add is not None and add.target in ADDS:
        residual = None if _writes_between(conv, add) else _residual(add, conv)
        last = add if residual is not None else conv
    relu = next(iter(last.users)) if len(last.users) == 1 else None
    rectified = relu is not None and relu.target in RELUS
    # Before the addition: what it adds may be computed after the convolution.
    with gm.graph.inserting_before(last):
        fused = gm.graph.call_function(
            torch.ops.asl.shift_pointwise.default,
            (
                call["x"],
                call["shift"],
                call["source"],
                mix["weight"],
                mix["bias"],
                call["stride"],
                call["delta"],
                rectified,
                residual,
            ),
        )
    fused.meta = dict(conv.meta)
    end = relu if relu is not None and rectified else last
    end.replace_all_uses_with(fused)
    for node in dict.fromkeys((end, last, conv, shift)):
        gm.graph.erase_node(node)


def _writes_between(first: fx.Node, last: fx.Node) -> bool:
    """The fused op reads its image where the addition stood: nothing may have written into it until then."""
    node = first.next
    while node is not last:
        schema = getattr(node.target, "_schema", None)
        if isinstance(node.target, torch._ops.HigherOrderOperator) or (schema is not None and schema.is_mutable):
            return True
        node = node.next
    return False


def _residual(add: fx.Node, conv: fx.Node) -> fx.Node | None:
    """What ``add`` adds to the convolution's output, if it is an image of the same shape and type."""
    first, second = add.args
    other = second if first is conv else first
    if not isinstance(other, fx.Node) or other is conv or add.kwargs.get("alpha", 1) != 1:
        return None
    same = all(other.meta.get(key) == conv.meta.get(key) is not None for key in ("shape", "dtype"))
    # An addition in place writes into its first operand, which others may read.
    in_place = add.target is aten.add_.Tensor and first is not conv
    return other if same and not in_place else None


def _fusable(user: fx.Node) -> bool:
    if user.target is torch.ops.asl.shift_pointwise.default:
        return True
    rows = user.args[0] if user.args else None
    is_shift = isinstance(rows, fx.Node) and rows.target is torch.ops.asl.active_shift.default
    return is_shift and pointwise_reader(rows) is user  # type: ignore[arg-type]
