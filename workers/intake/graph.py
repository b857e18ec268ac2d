"""The graph of an exported program: nodes are read one by one, in order, and written under names of our own."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Mapping

from aslconvert.workers.intake import operators
from aslconvert.workers.intake.arguments import CONSTANTS, Document, read_argument, read_constant
from aslconvert.workers.intake.jsontext import Cursor
from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.names import is_identifier
from aslconvert.workers.intake.scope import BOOL, CONSTANT, FLOAT, INT, TENSOR, Scope
from aslconvert.workers.intake.symbolic import parse_expression
from aslconvert.workers.intake.tensors import TensorMeta, read_size, read_tensor

_VALUES = {"as_sym_int": INT, "as_sym_bool": BOOL, "as_sym_float": FLOAT}
_KINDS = (None, 0, 1, 2)
_ARGUMENT = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,63})?\Z", re.ASCII)
"""Of a schema; the operators on sizes have none."""
_STACK_KEY = re.compile(r"[A-Za-z0-9_.@]{0,400}\Z", re.ASCII)
_STACK_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){0,30}\Z", re.ASCII)
_STACK_CHARS = 20_000
_ANY_MODULE = "torch.nn.modules.module.Module"


class GraphReader:
    """One graph; graphs within it have a reader each and share the count of nodes.

    ``inputs`` and ``outputs`` are what the signature is compared with, ``metas`` the tensors by their new name.
    """

    def __init__(self, cursor: Cursor, *, limits: Limits, keep: Mapping[str, str], depth: int = 0) -> None:
        """``keep`` gives names to inputs that are parameters; other inputs keep theirs."""
        self._limits, self._depth = limits, depth
        self._nodes_left = limits.graph_nodes
        self.scope = Scope(limits)
        self.metas: dict[str, TensorMeta] = {}
        self.symbols: set[str] = set()
        self.calls: Counter[str] = Counter()
        fields = cursor.fields(
            "inputs outputs nodes tensor_values sym_int_values sym_bool_values",
            "is_single_tensor_return custom_obj_values sym_float_values",
        )
        if "custom_obj_values" in fields and fields["custom_obj_values"].value != {}:
            raise fields["custom_obj_values"].refused("custom_object", "The graph has a custom object.")
        self.inputs = [self._input(each, keep) for each in fields["inputs"].elements(limits.tensors)]
        self._nodes = [self._node(each) for each in fields["nodes"].elements(limits.graph_nodes)]
        self.outputs = [read_argument(each, self.scope) for each in fields["outputs"].elements(limits.tree_leaves)]
        self._check_outputs(fields["outputs"])
        self._single = "is_single_tensor_return" in fields and fields["is_single_tensor_return"].boolean()
        if self._single and len(self.outputs) != 1:
            raise fields["outputs"].refused("signature_invalid", "A single output is announced.")
        self._read_values(fields)

    @property
    def nodes_left(self) -> int:
        """How many nodes the limit leaves to what comes after."""
        return self._nodes_left

    def document(self) -> Document:
        """As the exporter writes it."""
        return {
            "inputs": self.inputs,
            "outputs": self.outputs,
            "nodes": self._nodes,
            "tensor_values": {name: meta.document() for name, meta in self.metas.items()},
            "sym_int_values": self._numbers[INT],
            "sym_bool_values": self._numbers[BOOL],
            "is_single_tensor_return": self._single,
            "custom_obj_values": {},
            "sym_float_values": self._numbers[FLOAT],
        }

    def example_of(self, name: str) -> int:
        """What a size among the inputs is in the example."""
        number = self._numbers[INT][name]
        hint = number["as_expr"]["hint"] if "as_expr" in number else number
        return int(hint["as_int"]) if hint else 1

    def _input(self, cursor: Cursor, keep: Mapping[str, str]) -> Document:
        kind, inner = cursor.variant()
        if kind == "as_tensor":
            name = inner.fields("name")["name"]
            return {kind: {"name": self.scope.define_as(name, TENSOR, keep.get(str(name.value), ""))}}
        if kind == "as_sym_int":
            variant, name = inner.variant()
            if variant != "as_name":
                raise inner.unknown(variant)
            return {kind: {"as_name": self.scope.define_as(name, INT)}}
        if kind in ("as_custom_obj", "as_token"):
            raise inner.refused("custom_object", "Only tensors and numbers are inputs.")
        if kind not in CONSTANTS:
            raise cursor.unknown(kind)
        return read_constant(cursor, self.scope)

    def _check_outputs(self, cursor: Cursor) -> None:
        allowed = {"as_tensor", *_VALUES, "as_int", "as_float", "as_bool", "as_none"}
        for output in self.outputs:
            kind = next(iter(output))
            named = "as_name" in output[kind] if kind in _VALUES else True
            if kind not in allowed or not named:
                raise cursor.refused("signature_invalid", "Outputs are tensors, sizes or numbers.")

    def _node(self, cursor: Cursor) -> Document:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise cursor.refused("json_too_large", f"more than {self._limits.graph_nodes} nodes.")
        fields = cursor.fields("target inputs outputs metadata", "is_hop_single_tensor_return name")
        target = operators.read_target(fields["target"])
        inputs = [self._named(each, target) for each in fields["inputs"].elements(self._limits.tensors)]
        arguments = {str(index): each["arg"] for index, each in enumerate(inputs)}
        arguments = {each["name"] or key: each["arg"] for key, each in zip(arguments, inputs, strict=True)}
        if len(arguments) != len(inputs):
            raise fields["inputs"].refused("name_duplicate", "Two arguments have the same name.")
        operators.check_size(target, arguments, cursor, limits=self._limits)
        self.calls[target] += 1
        base = operators.base_name(target)
        hop = fields["is_hop_single_tensor_return"].boolean() if "is_hop_single_tensor_return" in fields else None
        # A tuple of one value: the node is the tuple, and the value is taken out of it.
        in_tuple = hop is False and target in operators.HIGHER
        outputs = self._outputs(fields["outputs"], "getitem" if in_tuple else base)
        return {
            "target": target,
            "inputs": inputs,
            "outputs": outputs,
            "metadata": self._metadata(fields["metadata"]),
            "is_hop_single_tensor_return": hop,
            "name": self.scope.made(base) if in_tuple else self._node_name(outputs, base),
        }

    def _node_name(self, outputs: list[Document], base: str) -> str:
        """A node with one value is called as that is."""
        if len(outputs) == 1:
            ((kind, value),) = outputs[0].items()
            if kind == "as_tensor":
                return str(value["name"])
            if kind in _VALUES:
                return str(value["as_name"])
        return self.scope.made(base)

    def _named(self, cursor: Cursor, target: str) -> Document:
        fields = cursor.fields("name arg", "kind")
        name = fields["name"].value
        if not isinstance(name, str) or not _ARGUMENT.match(name) or keyword.iskeyword(name):
            raise fields["name"].refused("name_invalid", "it is no plain identifier.")
        kind, inner = fields["arg"].variant()
        if kind == "as_graph":
            argument = {kind: self._inner_graph(inner, target)}
        else:
            argument = read_argument(fields["arg"], self.scope)
        return {"name": name, "arg": argument, "kind": fields["kind"].one_of(_KINDS) if "kind" in fields else None}

    def _inner_graph(self, cursor: Cursor, target: str) -> Document:
        if target not in operators.HIGHER:
            raise cursor.refused("operator_not_allowed", "This operator takes no graph.")
        if self._depth >= self._limits.graph_depth:
            raise cursor.refused("json_too_deep", f"graphs within graphs, {self._limits.graph_depth} deep at most.")
        fields = cursor.fields("name graph")
        if not is_identifier(fields["name"].value, self._limits.name_chars):
            raise fields["name"].refused("name_invalid", "it is no plain identifier.")
        inner = GraphReader(fields["graph"], limits=self._limits, keep={}, depth=self._depth + 1)
        self._nodes_left -= self._limits.graph_nodes - inner.nodes_left
        self.symbols |= inner.symbols
        self.calls += inner.calls
        return {"name": self.scope.made("inner_graph"), "graph": inner.document()}

    def _outputs(self, cursor: Cursor, base: str) -> list[Document]:
        elements = cursor.elements(self._limits.tensors)
        single = len(elements) == 1
        return [self._output(each, base if single else "getitem") for each in elements]

    def _output(self, cursor: Cursor, base: str) -> Document:
        kind, inner = cursor.variant()
        if kind == "as_tensor":
            return {kind: {"name": self.scope.define(inner.fields("name")["name"], TENSOR, base)}}
        if kind == "as_tensors":
            names = [each.fields("name")["name"] for each in inner.elements(self._limits.tensors)]
            return {kind: [{"name": self.scope.define(name, TENSOR, "getitem")} for name in names]}
        if kind in _VALUES:
            variant, name = inner.variant()
            if variant != "as_name":
                raise inner.unknown(variant)
            return {kind: {"as_name": self.scope.define(name, _VALUES[kind], base)}}
        if kind == "as_none":
            inner.boolean()
            return {kind: True}
        if kind in ("as_custom_obj", "as_token"):
            raise inner.refused("custom_object", "Only tensors and sizes come out of a node.")
        raise cursor.unknown(kind)

    def _metadata(self, cursor: Cursor) -> dict[str, str]:
        """The modules a node came from: sites are named after them. Stack traces and all else are left out."""
        stack = ""
        for key, value in cursor.items(64):
            if key == "nn_module_stack" and isinstance(value.value, str) and len(value.value) < _STACK_CHARS:
                stack = value.value
        entries = [entry.split(",") for entry in stack.split(";")]
        if not all(len(entry) == 3 and _STACK_KEY.match(entry[0]) and _STACK_KEY.match(entry[1]) for entry in entries):
            return {}
        # A class within a function has no plain name.
        plain = [(key, path, kind if _STACK_TYPE.match(kind) else _ANY_MODULE) for key, path, kind in entries]
        return {"nn_module_stack": ";".join(map(",".join, plain))}

    def _read_values(self, fields: Mapping[str, Cursor]) -> None:
        """What is said of each value; of values that do not exist nothing is."""
        for name, each in fields["tensor_values"].items(self._limits.json_values):
            meta = read_tensor(each, limits=self._limits)
            if self.scope.kinds.get(name) == TENSOR:
                self.metas[self.scope.renamed[name]] = meta
                for size in (*meta.sizes, *meta.strides, meta.offset):
                    if not isinstance(size.value, int):
                        self.symbols |= size.value.symbols()
        self._numbers: dict[str, dict[str, Document]] = {INT: {}, BOOL: {}, FLOAT: {}}
        for kind in self._numbers:
            values = fields.get(f"{kind}_values")
            for name, each in values.items(self._limits.json_values) if values else ():
                document = self._number(each, kind)
                if self.scope.kinds.get(name) == kind:
                    self._numbers[kind][self.scope.renamed[name]] = document
        for name, kind in self.scope.kinds.items():
            new = self.scope.renamed[name]
            known = new in self.metas if kind == TENSOR else kind == CONSTANT or new in self._numbers[kind]
            if not known:
                raise fields["tensor_values"].refused("field_missing", f"nothing is said of '{name}'.")

    def _number(self, cursor: Cursor, kind: str) -> Document:
        variant, inner = cursor.variant()
        if kind == INT:
            size = read_size(cursor, limits=self._limits, low=-(1 << 62))
            if not isinstance(size.value, int):
                self.symbols |= size.value.symbols()
            return size.document()
        if variant != "as_expr":
            return read_constant(cursor, self.scope)
        hints = inner.fields("expr_str", "hint")
        expression = parse_expression(hints["expr_str"].value, entry=hints["expr_str"].path, limits=self._limits)
        self.symbols |= expression.symbols()
        hint = read_constant(hints["hint"], self.scope) if "hint" in hints else None
        return {"as_expr": {"expr_str": expression.printed(), "hint": hint}}
