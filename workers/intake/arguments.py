"""What a node is called with, and what it gives: each variant is read and written again by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aslconvert.workers.intake.jsontext import Cursor
from aslconvert.workers.intake.scope import BOOL, FLOAT, INT, TENSOR, Scope
from aslconvert.workers.intake.tensors import MEMORY_FORMATS, STRIDED, device_document, read_device, read_dtype

Document = dict[str, Any]
MOST = 100_000
"""Elements of one list of numbers or tensors."""

_SYMBOLIC = {"as_sym_int": (INT, "as_int"), "as_sym_bool": (BOOL, "as_bool"), "as_sym_float": (FLOAT, "as_float")}
_REFUSED = ("as_custom_obj", "as_operator", "as_token")
CONSTANTS = ("as_none", "as_int", "as_float", "as_bool", "as_string")


def read_argument(cursor: Cursor, scope: Scope) -> Document:
    """An argument without graphs in it; every value it names is one that ``scope`` knows.

    Raises Refused: ``custom_object``, ``name_undefined``, ``field_unknown`` and the codes of fields.
    """
    kind, inner = cursor.variant()
    if kind in _REFUSED:
        raise inner.refused("custom_object", "Only tensors, numbers and strings are taken.")
    if kind in CONSTANTS:
        return read_constant(cursor, scope)
    if kind in _SYMBOLIC:
        return {kind: _symbolic(kind, inner, scope)}
    if kind in ("as_sym_ints", "as_sym_bools", "as_sym_floats"):
        return {kind: [_symbolic(kind[:-1], each, scope) for each in inner.elements(MOST)]}
    reader = _READERS.get(kind)
    if reader is None:
        raise cursor.unknown(kind)
    return {kind: reader(inner, scope)}


def read_constant(cursor: Cursor, scope: Scope) -> Document:
    """None, a number, a truth value or a short string."""
    kind, inner = cursor.variant()
    match kind:
        case "as_none":
            inner.boolean()
            return {kind: True}
        case "as_int":
            return {kind: inner.integer()}
        case "as_float":
            return {kind: inner.real()}
        case "as_bool":
            return {kind: inner.boolean()}
        case "as_string":
            return {kind: inner.text(scope.limits.text_chars)}
        case _:
            raise cursor.unknown(kind)


def read_tensor_name(cursor: Cursor, scope: Scope) -> Document:
    """A tensor of the graph, as ``{"name": ...}``."""
    return {"name": scope.use(cursor.fields("name")["name"], TENSOR)}


def _symbolic(kind: str, cursor: Cursor, scope: Scope) -> Document:
    of, literal = _SYMBOLIC[kind]
    variant, inner = cursor.variant()
    if variant == "as_name":
        return {"as_name": scope.use(inner, of)}
    if variant != literal:
        raise cursor.unknown(variant)
    return read_constant(cursor, scope)


def _optional(cursor: Cursor, scope: Scope) -> Document:
    kind, inner = cursor.variant()
    if kind == "as_tensor":
        return {kind: read_tensor_name(inner, scope)}
    if kind != "as_none":
        raise cursor.unknown(kind)
    return {kind: True}


def _device(cursor: Cursor, _: Scope) -> Document:
    read_device(cursor)
    return device_document()


_READERS: dict[str, Callable[[Cursor, Scope], Any]] = {
    "as_tensor": read_tensor_name,
    "as_tensors": lambda cursor, scope: [read_tensor_name(each, scope) for each in cursor.elements(MOST)],
    "as_optional_tensor": _optional,
    "as_optional_tensors": lambda cursor, scope: [_optional(each, scope) for each in cursor.elements(MOST)],
    "as_ints": lambda cursor, _: [each.integer() for each in cursor.elements(MOST)],
    "as_floats": lambda cursor, _: [each.real() for each in cursor.elements(MOST)],
    "as_bools": lambda cursor, _: [each.boolean() for each in cursor.elements(MOST)],
    "as_strings": lambda cursor, scope: [each.text(scope.limits.text_chars) for each in cursor.elements(64)],
    "as_scalar_type": lambda cursor, _: read_dtype(cursor),
    "as_memory_format": lambda cursor, _: cursor.one_of(MEMORY_FORMATS),
    "as_layout": lambda cursor, _: cursor.one_of((STRIDED,)),
    "as_device": _device,
}
