"""Weights that the graph computes from stored tensors alone (weight norm, spectral norm, casts) become stored ones.

Pattern: the ``weight`` or ``bias`` of a convolution or linear layer is a subgraph without inputs. Algebra: its value
never changes, so it is computed here, once, and kept as ``<layer>.weight``; layers that computed the same stay tied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from aslconvert.converter.ir.graph import (
    CONVOLUTIONS,
    add_note,
    arguments,
    aten,
    attribute,
    conv_module,
    copy_graph,
    module_path,
)
from aslconvert.converter.passes.parameters import drop_unused, free_name, put_parameter, read_targets, readers
from aslconvert.converter.passes.verify import verify

LAYERS = frozenset({*CONVOLUTIONS, aten.linear.default})

_KINDS = (
    ("_weight_norm", "weight norm"),
    ("vdot", "spectral norm"),
    ("dot", "spectral norm"),
    ("mv", "spectral norm"),
    ("to", "the cast of the weight"),
)


def store_weights(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` whose convolutions and linear layers read stored weights wherever no input has a say in them."""
    gm = copy_graph(gm)
    before = read_targets(gm)
    stored: dict[str, str] = {}
    removed: dict[str, list[str]] = {}
    for node in list(gm.graph.nodes):
        if node.op != "call_function" or node.target not in LAYERS:
            continue
        for name in ("weight", "bias"):
            value = arguments(node)[name]
            if isinstance(value, fx.Node) and value.op == "call_function" and _constant(value):
                key = _signature(value)
                if key not in stored:
                    stored[key] = _store(gm, node, name, value)
                    if name == "weight":
                        removed.setdefault(_kind(value), []).append(stored[key].removesuffix(".weight"))
                with gm.graph.inserting_before(node):
                    node.replace_input_with(value, gm.graph.get_attr(stored[key]))
    if not stored:
        return gm
    for kind, layers in removed.items():
        add_note(gm, f"Removed {kind} from {', '.join(layers)}; the weights that it gave are stored instead.")
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


def _ancestors(value: fx.Node) -> list[fx.Node]:
    """``value`` and all that it is computed from, inputs first."""
    order: dict[fx.Node, None] = {}

    def visit(node: fx.Node) -> None:
        if node not in order:
            for used in node.all_input_nodes:
                visit(used)
            order[node] = None

    visit(value)
    return list(order)


def _constant(value: fx.Node) -> bool:
    return all(node.op == "get_attr" or (node.op == "call_function" and _pure(node)) for node in _ancestors(value))


def _pure(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return getattr(target, "__module__", "") == "_operator"
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def _signature(value: fx.Node) -> str:
    """Equal for two computations of the same from the same tensors."""
    names: dict[fx.Node, str] = {}
    lines = []
    for node in _ancestors(value):
        names[node] = f"%{len(names)}"
        if node.op == "get_attr":
            lines.append(f"get {node.target}")
        else:
            lines.append(f"{node.target} {fx.node.map_arg((node.args, node.kwargs), lambda used: _Name(names[used]))}")
    return "\n".join(lines)


class _Name(str):
    """Prints without quotes, so that no string argument can be taken for a node."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _kind(value: fx.Node) -> str:
    names = {getattr(node.target, "_opname", "") for node in _ancestors(value)}
    return next((kind for name, kind in _KINDS if name in names), "a parametrisation")


def _store(gm: fx.GraphModule, layer: fx.Node, name: str, value: fx.Node) -> str:
    known: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in _ancestors(value):
            if node.op == "get_attr":
                known[node] = attribute(gm, node.target)
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda used: known[used])
                known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    result = known[value]
    if not isinstance(result, Tensor):
        raise TypeError(f"the {name} of {layer.name} is computed to be a {type(result).__name__}")
    holder = conv_module(layer) or module_path(layer) or layer.name
    target = f"{holder}.{name}"
    current = _at(gm, target)
    # A cast of a weight that nothing else reads takes its place; anything else gets a free name.
    replaceable = current is not None and readers(gm, target) <= set(known)
    target = target if current is None or replaceable else free_name(gm, target)
    put_parameter(gm, target, result.detach().clone())
    return target


def _at(gm: fx.GraphModule, target: str) -> Any:
    try:
        return attribute(gm, target)
    except AttributeError:
        return None
