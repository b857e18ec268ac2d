"""conv -> batch_norm (eval) becomes one conv.

Pattern: ``batch_norm(conv(x, W, b), gamma, beta, mean, var, training=False)`` where nothing else reads the conv.
Algebra: with ``s = gamma / sqrt(var + eps)`` per output channel, ``W' = s W`` and ``b' = s (b - mean) + beta``.
Linear layers and transposed convolutions fold alike; what does not match stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from aslconvert.converter.ir.graph import CONVOLUTIONS, arguments, aten, attribute, copy_graph
from aslconvert.converter.passes.parameters import drop_unused, free_name, put_parameter, read_targets, readers, stored
from aslconvert.converter.passes.verify import verify


def fold_batch_norm(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` with every batch norm that directly follows a convolution or linear layer folded into it."""
    gm = copy_graph(gm)
    before = read_targets(gm)
    for node in list(gm.graph.nodes):
        if node.target is aten.batch_norm.default and _foldable(node):
            _fold(gm, node)
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


def _foldable(norm: fx.Node) -> bool:
    call = arguments(norm)
    producer = call["input"]
    if call["training"] or producer.op != "call_function" or len(producer.users) != 1:
        return False
    if producer.target not in CONVOLUTIONS and producer.target is not aten.linear.default:
        return False
    if producer.target is aten.linear.default and len(producer.meta.get("shape", ())) != 2:
        # Over a sequence, batch norm counts axis 1 and linear gives the last one.
        return False
    source = arguments(producer)
    return (
        stored(call["running_mean"])
        and stored(call["running_var"])
        and all(call[name] is None or stored(call[name]) for name in ("weight", "bias"))
        and stored(source["weight"])
        and (source["bias"] is None or stored(source["bias"]))
    )


def _fold(gm: fx.GraphModule, norm: fx.Node) -> None:
    call = arguments(norm)
    conv = call["input"]
    source = arguments(conv)
    weight, bias = attribute(gm, source["weight"].target).detach(), _tensor(gm, source["bias"])
    mean, variance = attribute(gm, call["running_mean"].target), attribute(gm, call["running_var"].target)
    gamma, beta = _tensor(gm, call["weight"]), _tensor(gm, call["bias"])
    scale = torch.rsqrt(variance.double() + call["eps"])
    if gamma is not None:
        scale = scale * gamma
    offset = (bias if bias is not None else torch.zeros_like(scale)) - mean.double()
    offset = offset * scale if beta is None else offset * scale + beta
    scaled = _scale_outputs(weight.double(), scale, conv, source)
    prefix = _prefix(gm, conv, source)
    dtype = weight.dtype
    put_parameter(gm, f"{prefix}.weight", scaled.to(dtype))
    put_parameter(gm, f"{prefix}.bias", offset.to(dtype))
    with gm.graph.inserting_before(conv):
        conv.args, conv.kwargs = _with(conv, source, gm.graph, prefix)
    norm.replace_all_uses_with(conv)
    gm.graph.erase_node(norm)


def _tensor(gm: fx.GraphModule, node: fx.Node | None) -> Tensor | None:
    return None if node is None else attribute(gm, node.target).detach().double()


def _scale_outputs(weight: Tensor, scale: Tensor, conv: fx.Node, source: dict[str, Any]) -> Tensor:
    name = CONVOLUTIONS.get(conv.target, "linear")
    if not source.get("transposed", "transpose" in name):
        return weight * scale.reshape(-1, *([1] * (weight.dim() - 1)))
    # [C_in, C_out / groups, *kernel]: outputs are the second axis within each group.
    groups, (inputs, outputs, *kernel) = source["groups"], weight.shape
    grouped = weight.reshape(groups, inputs // groups, outputs, *kernel)
    scaled = grouped * scale.reshape(groups, 1, outputs, *([1] * len(kernel)))
    return scaled.reshape(weight.shape)


def _prefix(gm: fx.GraphModule, conv: fx.Node, source: dict[str, Any]) -> str:
    """The conv's own name when it alone reads its parameters, else a new one."""
    target = source["weight"].target
    base = str(target).removesuffix(".weight")
    tensors = [node for node in (source["weight"], source["bias"]) if node is not None]
    alone = all(readers(gm, node.target) == {conv} for node in tensors)
    if base != target and alone:
        return base
    return free_name(gm, f"{base}_folded")


def _with(
    conv: fx.Node, source: dict[str, Any], graph: fx.Graph, prefix: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    weight, bias = graph.get_attr(f"{prefix}.weight"), graph.get_attr(f"{prefix}.bias")
    given = {**source, "weight": weight, "bias": bias}
    names = [argument.name for argument in conv.target._schema.arguments]  # type: ignore[union-attr]
    return tuple(given[name] for name in names), {}
