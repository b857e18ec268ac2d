"""Which inputs of the graph are parameters, buffers and constants, and what its outputs are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aslconvert.workers.intake.arguments import Document, read_argument, read_constant, read_tensor_name
from aslconvert.workers.intake.graph import GraphReader
from aslconvert.workers.intake.jsontext import Cursor
from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.names import is_dotted, is_identifier

_STORED = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
_PREFIX = {"parameter": "p_", "buffer": "b_", "tensor_constant": "c_"}


@dataclass
class Signature:
    """``stored`` gives the kind and the graph's name of each stored tensor; ``inputs`` are the caller's, in order."""

    input_specs: list[Document] = field(default_factory=list)
    output_specs: list[Document] = field(default_factory=list)
    stored: dict[str, tuple[str, str, bool]] = field(default_factory=dict)
    inputs: list[Document] = field(default_factory=list)
    outputs: int = 0

    def document(self) -> Document:
        """As the exporter writes it."""
        return {"input_specs": self.input_specs, "output_specs": self.output_specs}


def parameter_names(specs: Cursor, limits: Limits) -> dict[str, str]:
    """What inputs that are stored tensors are called in the new graph, by their name in the old one."""
    names: dict[str, str] = {}
    for each in specs.elements(limits.tensors):
        kind, inner = each.variant()
        if kind in _STORED and isinstance(inner.value, dict):
            stored, argument = inner.value.get(_STORED[kind]), inner.value.get("arg")
            old = argument.get("name") if isinstance(argument, dict) else None
            if is_dotted(stored, limits.name_chars) and isinstance(old, str):
                # Numbered, as a.b_c and a_b.c would be called the same.
                names[old] = f"{_PREFIX[kind]}{re.sub('[.-]', '_', stored)[:200]}_{len(names)}"
    return names


def read_signature(cursor: Cursor, graph: GraphReader, *, limits: Limits) -> Signature:
    """Raises Refused: ``signature_invalid``, ``custom_object``, ``name_invalid``, ``name_duplicate``."""
    fields = cursor.fields("input_specs output_specs")
    signature = Signature()
    specs = fields["input_specs"].elements(limits.tensors)
    if len(specs) != len(graph.inputs):
        raise cursor.refused("signature_invalid", f"{len(specs)} inputs, the graph has {len(graph.inputs)}.")
    for spec, value in zip(specs, graph.inputs, strict=True):
        signature.input_specs.append(_input(spec, value, graph, signature))
    outputs = fields["output_specs"].elements(limits.tensors)
    if len(outputs) != len(graph.outputs):
        raise cursor.refused("signature_invalid", f"{len(outputs)} outputs, the graph has {len(graph.outputs)}.")
    for spec, value in zip(outputs, graph.outputs, strict=True):
        signature.output_specs.append(_output(spec, value, graph, signature))
    return signature


def _input(cursor: Cursor, value: Document, graph: GraphReader, signature: Signature) -> Document:
    kind, inner = cursor.variant()
    if kind in ("custom_obj", "token"):
        raise inner.refused("custom_object", "Only tensors and numbers are inputs.")
    if kind == "user_input":
        argument = read_argument(inner.fields("arg")["arg"], graph.scope)
        _same(argument, value, inner)
        signature.inputs.append(argument)
        return {kind: {"arg": argument}}
    if kind == "constant_input":
        return _constant(inner, value, graph, signature)
    if kind not in _STORED:
        raise cursor.unknown(kind)
    return {kind: _stored(kind, inner, value, graph, signature)}


def _constant(cursor: Cursor, value: Document, graph: GraphReader, signature: Signature) -> Document:
    fields = cursor.fields("name value")
    # The generated code declares it, so that a name with anything else in it would be code.
    if not is_identifier(fields["name"].value, graph.scope.limits.name_chars):
        raise fields["name"].refused("name_invalid", "it is no plain identifier.")
    name = graph.scope.define_as(fields["name"], "constant")
    constant = read_constant(fields["value"], graph.scope)
    _same(constant, value, cursor)
    signature.inputs.append(constant)
    return {"constant_input": {"name": name, "value": constant}}


def _stored(kind: str, cursor: Cursor, value: Document, graph: GraphReader, signature: Signature) -> Document:
    key = _STORED[kind]
    fields = cursor.fields(f"arg {key} persistent" if kind == "buffer" else f"arg {key}")
    argument = read_tensor_name(fields["arg"], graph.scope)
    _same({"as_tensor": argument}, value, cursor)
    name = fields[key].value
    if not is_dotted(name, graph.scope.limits.name_chars):
        raise fields[key].refused("name_invalid", "it is no plain dotted name.")
    if name in signature.stored:
        raise fields[key].refused("name_duplicate", f"'{name}' is there twice.")
    document: dict[str, Any] = {"arg": argument, key: name}
    persistent = True
    if kind == "buffer":
        document["persistent"] = persistent = fields["persistent"].boolean()
    signature.stored[name] = (kind, argument["name"], persistent)
    return document


def _output(cursor: Cursor, value: Document, graph: GraphReader, signature: Signature) -> Document:
    kind, inner = cursor.variant()
    if kind == "user_output":
        argument = read_argument(inner.fields("arg")["arg"], graph.scope)
        _same(argument, value, inner)
        signature.outputs += 1
        return {kind: {"arg": argument}}
    if kind == "token":
        raise inner.refused("custom_object", "Only tensors and numbers are outputs.")
    if kind == "buffer_mutation":
        fields = inner.fields("arg buffer_name")
        known = {name for name, (stored, _, _) in signature.stored.items() if stored == "buffer"}
        return {kind: _mutation(fields, "buffer_name", known, value, graph)}
    if kind == "user_input_mutation":
        fields = inner.fields("arg user_input_name")
        named = {each["as_tensor"]["name"] for each in signature.inputs if "as_tensor" in each}
        return {kind: _mutation(fields, "user_input_name", named, value, graph)}
    if kind in ("loss_output", "gradient_to_parameter", "gradient_to_user_input", "parameter_mutation"):
        raise inner.refused("signature_invalid", "The program trains; export it in eval mode.")
    raise cursor.unknown(kind)


def _mutation(fields: Mapping[str, Cursor], key: str, known: set[str], value: Document, graph: GraphReader) -> Document:
    argument = read_tensor_name(fields["arg"], graph.scope)
    _same({"as_tensor": argument}, value, fields["arg"])
    if fields[key].value not in known:
        raise fields[key].refused("signature_invalid", "nothing of this name goes in.")
    return {"arg": argument, key: fields[key].value}


def _same(said: Document, value: Document, cursor: Cursor) -> None:
    if said != value:
        raise cursor.refused("signature_invalid", "the graph has another value here.")
