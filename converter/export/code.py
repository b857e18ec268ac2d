"""A variant as readable PyTorch: ``model.py``, which loads the safetensors weights without aslconvert.

Layers whose tensors go by a layer's names (``conv1.weight``, ``conv1.bias``) become modules of these names, so that the
state dict is the variant's own; everything else is written as the function it is. Variables are used again as soon as
nothing reads them, which keeps memory low and the text short.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from aslconvert.converter.errors import InternalError
from aslconvert.converter.export import support
from aslconvert.converter.export.code_layers import Layer, layers_of
from aslconvert.converter.export.code_ops import DROPPED, expression, literal
from aslconvert.converter.ir.graph import attribute

MARK = "# --8<--"

HEAD = '''"""A converted network in plain PyTorch.

    model = load()    # reads weights.safetensors beside this file; in inference mode
    y = model({inputs})

Written by aslconvert from the network's graph. PyTorch and safetensors are all it needs; where aslconvert is installed,
its kernels run the shifted convolutions. Inputs of {inputs}: {shapes}.
"""
'''

TAIL = '''

def load(weights: str | Path = Path(__file__).with_name("{weights}")) -> nn.Module:
    """The network with its weights, in inference mode."""
    return read(Model(), weights)
'''

NAMES = "xyzuvwabcdefgh"
TAKEN = {"torch", "nn", "F", "math", "itertools", "kernels", "self", "Any", "Path", "Tensor", "Block", "ShiftConv"}


def named_tensors(gm: fx.GraphModule) -> dict[str, Tensor]:
    """All that ``model.py`` loads: the state dict, and constants of the graph that no state dict holds."""
    state = dict(gm.state_dict())
    for node in gm.graph.nodes:
        if node.op == "get_attr" and node.users:
            value = attribute(gm, node.target)
            if isinstance(value, Tensor):
                state.setdefault(str(node.target), value)
    return state


def model_code(gm: fx.GraphModule, *, weights: str) -> str:
    """The text of ``model.py`` for ``gm``, which loads ``named_tensors(gm)`` from the file ``weights`` beside it.

    ``forward`` takes the model's inputs flat, in their order. Raises InternalError("no_code") for a graph with a part
    that has no form in plain PyTorch.
    """
    tensors = named_tensors(gm)
    layers = layers_of(gm, tensors)
    writer = _Writer(gm, layers)
    placeholders = [node for node in gm.graph.nodes if node.op == "placeholder"]
    body = writer.method("forward", gm)
    nested = list(writer.nested())
    shapes = ", ".join("x".join(map(str, node.meta.get("shape", ()))) or "a constant" for node in placeholders)
    inputs = ", ".join(_identifier(node.name) for node in placeholders)
    source = Path(support.__file__).read_text(encoding="utf-8").split(MARK)[1].partition("\n")[2].rstrip()
    if any("math." in line for line in (*body, *(line for part in nested for line in part))):
        source = source.replace("import itertools\n", "import itertools\nimport math\n", 1)
    lines = ["class Model(Block):", '    """The network."""', "", "    def __init__(self) -> None:"]
    lines += ["        super().__init__()", *_declarations(tensors, gm, layers)]
    for part in (body, *nested):
        lines += ["", *part]
    text = HEAD.format(inputs=inputs, shapes=shapes) + "\n" + source + "\n\n\n" + "\n".join(lines) + "\n"
    return text + TAIL.format(weights=weights)


def _declarations(tensors: dict[str, Tensor], gm: fx.GraphModule, layers: dict[str, Layer]) -> list[str]:
    lines: list[str] = []
    made: set[str] = set()
    first: dict[int, str] = {}
    trained = {name for name, _ in gm.named_parameters(remove_duplicate=False)}

    def containers(path: str) -> None:
        parts = path.split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            if name not in made:
                made.add(name)
                lines.append(f"        {reach(name)} = Block()")

    for name, tensor in tensors.items():
        prefix = name.rpartition(".")[0]
        layer = layers.get(prefix)
        if layer is not None and prefix not in made:
            containers(prefix)
            made.add(prefix)
            lines.append(f"        {reach(prefix)} = {layer.code}")
        elif layer is None:
            containers(name)
        # Tied tensors: one object under several names.
        key = id(attribute(gm, name))
        if key in first:
            lines.append(f"        {reach(name)} = {reach(first[key])}")
            continue
        first[key] = name
        if layer is not None:
            continue
        made_of = f"torch.empty({_shape(tensor)}, dtype={tensor.dtype})"
        if name in trained and tensor.is_floating_point():
            lines.append(f"        {reach(name)} = nn.Parameter({made_of})")
        else:
            held = reach(prefix) if prefix else "self"
            lines.append(f"        {held}.register_buffer({literal(name.rpartition('.')[2])}, {made_of})")
    return lines


def _shape(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape)) or "()"


def reach(target: str) -> str:
    """The expression for the module or tensor at a dotted path."""
    text = "self"
    for part in target.split("."):
        plain = part.isidentifier() and not keyword.iskeyword(part) and not hasattr(nn.Module, part)
        if plain:
            text += f".{part}"
        else:
            text += f"[{int(part)}]" if part.isdecimal() and str(int(part)) == part else f"[{literal(part)}]"
    return text


def _identifier(name: str) -> str:
    """A safe variable: a file's names are not ours to trust."""
    if not name.isidentifier():
        raise InternalError("no_code", f"'{name}' is no name in Python.")
    return f"{name}_" if name in TAKEN or keyword.iskeyword(name) else name


class _Writer:
    """Writes the methods of the model: forward, and one for each nested graph."""

    def __init__(self, gm: fx.GraphModule, layers: dict[str, Layer]) -> None:
        self._gm = gm
        self._layers = layers
        self._wanted: dict[str, fx.GraphModule] = {}

    def nested(self) -> Iterator[list[str]]:
        """The methods of the nested graphs that were called, and of those they call."""
        done: set[str] = set()
        while left := [name for name in self._wanted if name not in done]:
            done.add(left[0])
            yield self.method(left[0], self._wanted[left[0]], prefix=f"{left[0]}.")

    def method(self, name: str, gm: fx.GraphModule, prefix: str = "") -> list[str]:
        """The lines of one method."""
        return _Method(self._gm, gm, self._layers, self._wanted, prefix).lines(name)


class _Method:
    def __init__(
        self,
        root: fx.GraphModule,
        gm: fx.GraphModule,
        layers: dict[str, Layer],
        wanted: dict[str, fx.GraphModule],
        prefix: str,
    ) -> None:
        self._root, self._gm, self._layers, self._wanted, self._prefix = root, gm, layers, wanted, prefix
        self._names: dict[fx.Node, str] = {}
        self._free: list[str] = []
        self._used: set[str] = set()
        self._last: dict[fx.Node, fx.Node] = {}
        self._by_call = {} if prefix else {node: layer for layer in layers.values() for node in layer.calls}
        self._inside = {} if prefix else {node for layer in layers.values() for node in layer.inside}
        for node in gm.graph.nodes:
            for argument in self._reads(node):
                self._last[argument] = node

    def lines(self, name: str) -> list[str]:
        given = [node for node in self._gm.graph.nodes if node.op == "placeholder"]
        for node in given:
            self._names[node] = _identifier(node.name)
            self._used.add(self._names[node])
        typed = ", ".join(f"{self._names[node]}: Any" for node in given)
        lines = [f"    def {_identifier(name)}(self, {typed}) -> Any:"]
        where = ""
        for node in self._gm.graph.nodes:
            if node.op == "output":
                lines.append(f"        return {self._returned(node)}")
            elif node.op == "call_function" and node.target not in DROPPED and node not in self._inside:
                if (part := _part(node)) and part != where:
                    where = part
                    lines.append(f"        # {part}")
                lines += [f"        {line}" for line in self._statement(node)]
        return lines

    def _reads(self, node: fx.Node) -> list[fx.Node]:
        layer = self._by_call.get(node)
        return [layer.reads(node)] if layer is not None else list(node.all_input_nodes)

    def _statement(self, node: fx.Node) -> list[str]:
        layer = self._by_call.get(node)
        if layer is not None:
            text = [f"{reach(layer.path)}({self._render(layer.reads(node))})"]
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            text = self._block(node)
        else:
            text = [expression(node, self._render)]
        name = self._assign(node)
        return [*text[:-1], text[-1].replace("{}", name, 1) if len(text) > 1 else f"{name} = {text[0]}"]

    def _assign(self, node: fx.Node) -> str:
        """A name for the value of ``node``: the first that nothing reads any more, or a new one."""
        dying = [self._names[a] for a in self._reads(node) if self._last.get(a) is node and a in self._names]
        self._free = [name for name in dict.fromkeys([*dying, *self._free]) if len(name) <= 2]
        if not self._free:
            numbered = (letter + number for number in ("", *map(str, range(2, 10_000))) for letter in NAMES)
            self._free.append(next(name for name in numbered if name not in self._used))
        name = self._free.pop(0)
        self._used.add(name)
        if node in self._last:
            self._names[node] = name
        else:
            self._free.append(name)
        return name

    def _block(self, node: fx.Node) -> list[str]:
        """The call of a nested graph, as the statement that runs it; ``{}`` stands for the result."""
        kind, args = node.target.name(), list(node.args)  # type: ignore[union-attr]
        if kind == "wrap_with_set_grad_enabled":
            head, body, operands = f"torch.set_grad_enabled({args[0]})", args[1], args[2:]
        elif kind == "wrap_with_autocast":
            words = [literal(value) for value in args[:4]]
            head = f"torch.autocast({words[0]}, dtype={words[1]}, enabled={words[2]}, cache_enabled={words[3]})"
            body, operands = args[4], args[5:]
        elif kind == "cond":
            yes, no = (self._nested(argument) for argument in args[1:3])
            given = self._render(tuple(_flat(args[3])))
            return [f"torch.cond({self._render(args[0])}, {yes}, {no}, {given})"]
        else:
            raise InternalError("no_code", f"'{node.name}' is a block of the kind {kind}, which has no form here.")
        given = ", ".join(self._render(argument) for argument in operands)
        return [f"with {head}:", f"    {{}} = {self._nested(body)}({given})"]

    def _nested(self, node: Any) -> str:
        name = str(node.target)
        module = attribute(self._gm, name)
        if not isinstance(module, fx.GraphModule) or "." in name or self._prefix:
            raise InternalError("no_code", f"'{name}' is nested deeper than one block.")
        self._wanted[name] = module
        return f"self.{_identifier(name)}"

    def _render(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            if value.op == "get_attr":
                return reach(self._prefix + str(value.target))
            if value not in self._names:
                raise InternalError("no_code", f"'{value.name}' is used but has no value in plain PyTorch.")
            return self._names[value]
        if isinstance(value, (list, tuple)):
            inner = ", ".join(self._render(item) for item in value)
            if isinstance(value, list):
                return f"[{inner}]"
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        if isinstance(value, slice):
            return f"slice({self._render(value.start)}, {self._render(value.stop)}, {self._render(value.step)})"
        return literal(value)

    def _returned(self, node: fx.Node) -> str:
        info = getattr(self._gm.graph._codegen, "pytree_info", None)
        spec = None if info is None or self._prefix else info.out_spec
        if spec is None:
            return self._render(node.args[0])
        # Other containers than Python's own come back as flat tuples: their classes belong to other packages.
        plain = pytree.tree_unflatten(list(pytree.arg_tree_leaves(*_flat(node.args[0]))), spec)
        return self._structure(plain) if _is_plain(plain) else self._render(tuple(_flat(node.args[0])))

    def _structure(self, value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{literal(k)}: {self._structure(v)}" for k, v in value.items()) + "}"
        if isinstance(value, (list, tuple)):
            inner = ", ".join(self._structure(item) for item in value)
            if isinstance(value, list):
                return f"[{inner}]"
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return self._render(value)


def _flat(value: Any) -> list[Any]:
    return list(pytree.tree_leaves(value, is_leaf=lambda leaf: isinstance(leaf, fx.Node)))


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(isinstance(key, (str, int)) and _is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (fx.Node, int, float, bool, str))


def _part(node: fx.Node) -> str:
    """The part of the original network that a call came from: the innermost module that is no layer of torch's."""
    entries = [entry[:2] for entry in (node.meta.get("nn_module_stack") or {}).values()]
    for path, kind in reversed(entries):
        path = str(path).removeprefix("L['self']").removeprefix(".")
        kind = f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
        if not kind.startswith("torch.nn.") and re.fullmatch(r"[\w.]+", path):
            return path
    return ""
