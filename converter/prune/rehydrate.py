"""A graph whose layers are modules again, for tools that look for modules; and its tensors put back into the graph."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from aslconvert.converter.ir.graph import arguments, aten, attribute
from aslconvert.converter.passes.parameters import put_buffer, put_parameter
from aslconvert.converter.passes.verify import verify
from aslconvert.converter.prune.layers import Layer, ShiftedConv, read_layer

_BROADCAST = {
    *(aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.mul_.Tensor, aten.div.Tensor),
    *(operator.add, operator.mul),
}


class Rehydrated:
    """``module`` computes what ``gm`` does, from a flat list of inputs to a flat list of outputs.

    Convolutions, linear layers, norms and shifted blocks whose tensors are stored are submodules of it, each listed in
    ``layers``; all else runs as in ``gm``. Tensors are those of ``gm`` until they are pruned.
    """

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm = gm
        self.layers: dict[nn.Module, Layer] = {}
        self.sites: dict[nn.Module, list[Layer]] = {}
        self.loose: dict[str, str] = {}
        self.module = self._build()

    def _build(self) -> fx.GraphModule:
        root, graph = nn.Module(), fx.Graph()
        known: dict[fx.Node, fx.Node] = {}
        found: dict[fx.Node, Layer] = {}
        inside: set[fx.Node] = set()
        for node in self.gm.graph.nodes:
            if node not in inside and (layer := read_layer(self.gm, node)) is not None:
                found[node] = layer
                inside.update(layer.nodes)
        owners = self._owners(found)
        inside = {node for layer in found.values() for node in layer.nodes}
        for node in self.gm.graph.nodes:
            if node in found:
                layer = found[node]
                name = self._add(root, layer, owners)
                known[layer.nodes[-1]] = graph.call_module(name, (known[layer.source],))
            elif node.op == "get_attr":
                if any(user not in inside for user in node.users):
                    known[node] = graph.get_attr(self._hold(root, node))
            elif node.op == "output":
                graph.output([known[leaf] for leaf in _leaves(node)])
            elif node not in inside:
                known[node] = graph.node_copy(node, lambda used: known[used])
        return fx.GraphModule(root, graph).eval()

    def _owners(self, found: dict[fx.Node, Layer]) -> dict[tuple[Any, ...], nn.Module]:
        """One module for all layers of the same tensors and settings: what is tied or in a loop stays one."""
        owners: dict[tuple[Any, ...], nn.Module] = {}
        settings: dict[int, set[tuple[Any, ...]]] = {}
        for layer in found.values():
            owners.setdefault(self._key(layer), layer.module)
            for target in layer.targets.values():
                settings.setdefault(id(attribute(self.gm, target)), set()).add(self._key(layer))
        mixed = {tensor for tensor, keys in settings.items() if len(keys) > 1}
        mixed |= self._read_elsewhere(found)
        for first in list(found):
            if any(id(attribute(self.gm, target)) in mixed for target in found[first].targets.values()):
                # Its tensors serve layers of other settings too: no module could be pruned alone.
                del found[first]
        return owners

    def _read_elsewhere(self, found: dict[fx.Node, Layer]) -> set[int]:
        inside = {node for layer in found.values() for node in layer.nodes}
        return {
            id(attribute(self.gm, node.target))
            for node in self.gm.graph.nodes
            if node.op == "get_attr" and any(user not in inside for user in node.users)
        }

    def _key(self, layer: Layer) -> tuple[Any, ...]:
        tensors = tuple((name, id(attribute(self.gm, target))) for name, target in sorted(layer.targets.items()))
        module = layer.module
        if isinstance(module, ShiftedConv):
            return (*tensors, tuple(module.stride), tuple(module.delta), module.upscale, module.groups)
        return (*tensors, module.extra_repr())

    def _add(self, root: nn.Module, layer: Layer, owners: dict[tuple[Any, ...], nn.Module]) -> str:
        layer.module = owners[self._key(layer)]
        if layer.module not in self.layers:
            self.layers[layer.module] = layer
            root.add_module(f"layer{len(self.layers)}", layer.module)
        self.sites.setdefault(layer.module, []).append(layer)
        return next(name for name, module in root.named_children() if module is layer.module)

    def _hold(self, root: nn.Module, node: fx.Node) -> str:
        value = attribute(self.gm, node.target)
        name = f"held_{str(node.target).replace('.', '_')}"
        if isinstance(value, nn.Parameter) and all(user.target in _BROADCAST for user in node.users):
            # torch-pruning follows parameters, and may prune these (scales and offsets of channels).
            root.register_parameter(name, nn.Parameter(value.detach()))
            self.loose[name] = str(node.target)
        elif isinstance(value, Tensor):
            root.register_buffer(name, value.detach())
        else:
            setattr(root, name, value)
        return name

    def put_back(self) -> fx.GraphModule:
        """``gm`` with the tensors of ``module``, and with the literals that name numbers of channels."""
        aliases: dict[int, list[str]] = {}
        for named in (self.gm.named_parameters, self.gm.named_buffers):
            for name, value in named(remove_duplicate=False):
                aliases.setdefault(id(value), []).append(name)
        fresh = [
            (layer.module, name, target) for layer in self.layers.values() for name, target in layer.targets.items()
        ]
        fresh += [(self.module, name, target) for name, target in self.loose.items()]
        old = {target: attribute(self.gm, target) for _, _, target in fresh}
        for module, name, target in fresh:
            value = getattr(module, name).detach().contiguous().clone()
            for alias in aliases.get(id(old[target]), [target]):
                if isinstance(old[target], nn.Parameter):
                    put_parameter(self.gm, alias, value)
                    attribute(self.gm, alias).requires_grad_(old[target].requires_grad)
                else:
                    put_buffer(self.gm, alias, value)
            _tie(self.gm, aliases.get(id(old[target]), [target]))
        for module, layers in self.sites.items():
            for layer in layers:
                _set_literals(module, layer)
        self.gm.recompile()
        return self.gm


def _tie(gm: fx.GraphModule, names: list[str]) -> None:
    value = attribute(gm, names[0])
    for name in names[1:]:
        holder, _, last = name.rpartition(".")
        store = gm.get_submodule(holder)
        (store._parameters if isinstance(value, nn.Parameter) else store._buffers)[last] = value


def _set_literals(module: nn.Module, layer: Layer) -> None:
    if isinstance(module, nn.LayerNorm):
        _set(layer.nodes[0], "normalized_shape", list(module.weight.shape))
    elif isinstance(module, (nn.modules.conv._ConvNd, ShiftedConv)):
        node = layer.nodes[1] if isinstance(module, ShiftedConv) else layer.nodes[0]
        if arguments(node)["groups"] != module.groups:
            _set(node, "groups", module.groups)


def _set(node: fx.Node, argument: str, value: Any) -> None:
    names = [entry.name for entry in node.target._schema.arguments]  # type: ignore[union-attr]
    place = names.index(argument)
    if place < len(node.args):
        node.update_arg(place, value)
    else:
        node.update_kwarg(argument, value)


def _leaves(node: fx.Node) -> list[fx.Node]:
    return [leaf for leaf in pytree.tree_leaves(node.args[0]) if isinstance(leaf, fx.Node)]


def follow_channels(gm: fx.GraphModule) -> fx.GraphModule:
    """Reshapes and expansions of ``gm`` that keep an axis read its size from their input, so that it may shrink.

    Done in place. The sizes are numbers in an exported graph, also where the network asked for them.
    """
    for node in list(gm.graph.nodes):
        if node.target in (aten.view.default, aten.reshape.default, aten._unsafe_view.default):
            _follow_view(gm, node)
        elif node.target is aten.expand.default:
            shape, wanted = node.args[0].meta.get("shape"), list(node.args[1])
            if shape is not None and len(shape) == len(wanted):
                same = [-1 if size == have and have != 1 else size for size, have in zip(wanted, shape, strict=True)]
                node.update_arg(1, same)
    gm.recompile()
    return verify(gm)


def _follow_view(gm: fx.GraphModule, node: fx.Node) -> None:
    source, sizes = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    shape, out = source.meta.get("shape"), node.meta.get("shape")  # type: ignore[union-attr]
    if shape is None or out is None or len(shape) < 2 or len(out) < 2:
        return
    for axis in ((1,) if shape[0] == out[0] else ()) + (-1,):
        if isinstance(sizes[axis], int) and sizes[axis] == shape[axis] > 1 and out[axis] == shape[axis]:
            with gm.graph.inserting_before(node):
                sizes[axis] = gm.graph.call_function(aten.sym_size.int, (source, axis % len(shape)))
            break
    else:
        # Channels and pixels become one axis: its size follows from the others.
        if len(out) == 2 and shape[0] == out[0] and isinstance(sizes[1], int) and isinstance(sizes[0], fx.Node):
            sizes[1] = -1
    node.update_arg(1, sizes)


def set_shapes(gm: fx.GraphModule, inputs: tuple[Any, ...]) -> None:
    """Write the shapes and types of one run into the graph's meta."""
    _Shapes(gm).run(*inputs)


class _Shapes(fx.Interpreter):
    @torch.no_grad()
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "get_attr":
            n.meta["shape"], n.meta["dtype"] = tuple(value.shape), value.dtype
        return value
