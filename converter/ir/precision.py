"""A graph in float64: how much a network's own arithmetic rounds off, and what may be asked of its other forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from aslconvert.converter.ir.graph import aten, attribute, copy_graph

ROUNDINGS = 2
"""Two forms of one network may differ by what each of them rounds off."""

MOST = 100
"""A network whose rounding allows for more than so many times the usual difference is not checked by it any more."""


def allowance(usual: float, rounding: float) -> float:
    """The difference that two forms may show: the usual one, or more where the network itself rounds off more.

    All relative to the largest output; ``rounding`` is how far the network in its own type is from itself in float64.
    """
    return min(max(usual, ROUNDINGS * rounding), MOST * usual)


def run_in_double(gm: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
    """The graph's flat tensor outputs, computed in float64; None for one of another type than float32."""
    types = {t.dtype for t in (*gm.parameters(), *gm.buffers(), *pytree.tree_leaves((args, kwargs))) if _is_real(t)}
    if types - {torch.float32}:
        return None
    args, kwargs = pytree.tree_map(lambda leaf: leaf.double() if _is_real(leaf) else leaf, (args, kwargs))
    try:
        with torch.no_grad():
            outputs = as_double(gm)(*args, **kwargs)
    except RuntimeError:
        # An operator that knows float32 alone: nothing is known of the rounding then.
        return None
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def as_double(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of a float32 graph that computes in float64, blocks within it too."""
    gm = copy_graph(gm).double()
    for module in gm.modules():
        if isinstance(module, fx.GraphModule):
            _to_double(module)
    return gm


def _to_double(gm: fx.GraphModule) -> None:
    for node in list(gm.graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            # It states the types of the original; a quotient of integers has float32 in the copy too.
            gm.graph.erase_node(node)
            continue
        node.args, node.kwargs = pytree.tree_map(
            lambda value: torch.float64 if value is torch.float32 else value, (node.args, node.kwargs)
        )
        value = attribute(gm, node.target) if node.op == "get_attr" else None
        if isinstance(value, Tensor) and value.dtype is torch.float32:
            value.data = value.data.double()
        if node.meta.get("dtype") is torch.float32:
            node.meta["dtype"] = torch.float64
    gm.recompile()


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
