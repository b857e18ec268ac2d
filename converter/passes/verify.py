"""The check after every pass: a well-formed graph whose attributes exist and whose conv shapes agree."""

from __future__ import annotations

import torch
from torch import fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.errors import InternalError
from aslconvert.converter.ir.graph import CONV_BY_AXES, attribute

_FUSED = (torch.ops.asl.shift_pointwise.default, torch.ops.asl.shift_pointwise_packed.default)
_PAIRS = torch.ops.asl.shift_pointwise_int16.default
_SHIFTS = (torch.ops.asl.active_shift.default, *_FUSED, _PAIRS)


def verify(gm: fx.GraphModule) -> fx.GraphModule:
    """``gm`` itself when it is sound. Raises InternalError("bad_graph") naming the node that is not."""
    try:
        gm.graph.lint()
    except (RuntimeError, AttributeError, ValueError) as error:
        raise InternalError("bad_graph", f"A pass broke the graph: {error}") from error
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            try:
                attribute(gm, node.target)
            except AttributeError as error:
                raise InternalError("bad_graph", f"'{node.name}' reads '{node.target}', which is gone.") from error
        elif node.target in _SHIFTS:
            _check_shift(gm, node)
        elif node.target in CONV_BY_AXES.values():
            _check_conv(gm, node)
    return gm


def _check_shift(gm: fx.GraphModule, node: fx.Node) -> None:
    _, shift, source, *rest = node.args
    rows = attribute(gm, shift.target).shape[0] if isinstance(shift, fx.Node) and shift.op == "get_attr" else None
    if rows is None:
        return
    if isinstance(source, fx.Node) and source.op == "get_attr" and attribute(gm, source.target).shape != (rows,):
        raise InternalError("bad_graph", f"'{node.name}' has {rows} shifts but another number of sources.")
    weight = rest[0]
    if node.target is _PAIRS:
        rows = (rows + 1) // 2
    fused = node.target in (*_FUSED, _PAIRS)
    if fused and isinstance(weight, fx.Node) and attribute(gm, weight.target).shape[1] != rows:
        raise InternalError("bad_graph", f"'{node.name}' has {rows} rows but weights for another number.")


def _check_conv(gm: fx.GraphModule, node: fx.Node) -> None:
    source, weight = node.args[0], node.args[1]
    if not (isinstance(source, fx.Node) and isinstance(weight, fx.Node) and weight.op == "get_attr"):
        return
    groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    shape = source.meta.get("shape")
    stored = attribute(gm, weight.target)
    if shape is None or not isinstance(groups, int) or len(shape) != stored.dim():
        return
    channels = stored.shape[1]
    if shape[1] != channels * groups:
        raise InternalError(
            "bad_graph", f"'{node.name}' gets {shape[1]} channels but its weight reads {channels * groups}."
        )
