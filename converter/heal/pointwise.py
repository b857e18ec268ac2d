"""1x1 convolutions as matrix products, for training: the library's own backward of a 1x1 is far from a product's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from aslconvert.converter.ir.graph import arguments, aten, attribute


def as_products(gm: fx.GraphModule) -> fx.GraphModule:
    """A graph over the SAME parameters as ``gm`` in which dense 1x1 conv2d calls are batched matrix products."""
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(gm.graph, values)
    graph.output(result)
    twin = fx.GraphModule(gm, graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is aten.conv2d.default:
            call = arguments(node)
            if _is_pointwise(gm, call):
                with graph.inserting_before(node):
                    product = graph.call_function(pointwise, (call["input"], call["weight"], call["bias"]))
                node.replace_all_uses_with(product)
                graph.erase_node(node)
    twin.recompile()
    return twin


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """weight [O, C, 1, 1] times x [N, C, H, W], plus bias [O]: [N, O, H, W]."""
    batch, channels = x.shape[:2]
    matrix = weight.flatten(1).expand(batch, -1, -1)
    flat = x.reshape(batch, channels, -1)
    if bias is None:
        product = torch.bmm(matrix, flat)
    else:
        product = torch.baddbmm(bias[:, None], matrix, flat)
    return product.view(batch, -1, *x.shape[2:])


def _is_pointwise(gm: fx.GraphModule, call: dict[str, object]) -> bool:
    weight = call["weight"]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr" or call["groups"] != 1:
        return False
    tensor = attribute(gm, weight.target)
    unit = _all(call["stride"], 1) and _all(call["padding"], 0)
    return isinstance(tensor, Tensor) and tensor.dim() == 4 and tuple(tensor.shape[2:]) == (1, 1) and unit


def _all(value: object, wanted: int) -> bool:
    items: Sequence[object] = value if isinstance(value, (list, tuple)) else [value]
    return all(item == wanted for item in items)
