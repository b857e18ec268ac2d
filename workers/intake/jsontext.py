"""JSON from strangers, parsed within bounds, and a cursor that knows where in it a value lies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.refusal import SHOWN, Refused, shown

INT64 = 1 << 63
# The end of the text ends a string too: without that, each quote of an open one would be tried to the end.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_DIGITS = 20


def parse(text: bytes, *, entry: str, limits: Limits) -> Cursor:
    """The value in ``text``. Raises Refused: ``json_damaged``, ``json_too_large``, ``json_too_deep``."""
    if len(text) > limits.json_bytes:
        raise Refused("json_too_large", f"{len(text)} bytes, {limits.json_bytes} are the most.", entry=entry)
    _measure(text, entry, limits)
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=lambda pairs: _object(pairs, entry),
            parse_constant=lambda name: _refuse(entry, f"the number {name}"),
            parse_int=lambda digits: _integer(digits, entry),
            parse_float=lambda digits: _real(digits, entry),
        )
    except (ValueError, RecursionError) as error:
        raise Refused("json_damaged", "It is not JSON in UTF-8.", entry=entry) from error
    return Cursor(value, entry)


def _measure(text: bytes, entry: str, limits: Limits) -> None:
    """Bounds what the parser would build, before it does."""
    bare = _STRING.sub(b"", text)
    values = bare.count(b",") + bare.count(b"[") + bare.count(b"{") + 1
    if values > limits.json_values:
        raise Refused("json_too_large", f"over {limits.json_values} values.", entry=entry)
    depth = 0
    for found in re.finditer(rb"[\[\]{}]", bare):
        depth += 1 if found[0] in b"[{" else -1
        if depth > limits.json_depth:
            raise Refused("json_too_deep", f"nested more than {limits.json_depth} deep.", entry=entry)


def _refuse(entry: str, what: str) -> NoReturn:
    raise Refused("json_damaged", f"It holds {what}.", entry=entry)


def _object(pairs: list[tuple[str, Any]], entry: str) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        _refuse(entry, "an object with a key twice")
    return built


def _integer(digits: str, entry: str) -> int:
    if len(digits) > _DIGITS or not -INT64 <= int(digits) < INT64:
        raise Refused("number_too_large", f"an integer of {len(digits)} digits.", entry=entry)
    return int(digits)


def _real(digits: str, entry: str) -> float:
    value = float(digits) if len(digits) <= 64 else float("inf")
    if value in (float("inf"), float("-inf")):
        raise Refused("number_too_large", "a real number that no double holds.", entry=entry)
    return value


class Cursor:
    """A value and its path; every method checks the type and raises Refused with the path."""

    __slots__ = ("_key", "_parent", "value")

    def __init__(self, value: Any, key: str, parent: Cursor | None = None) -> None:
        self.value = value
        self._key = key
        self._parent = parent

    @property
    def path(self) -> str:
        """Such as ``models/model.json: graph_module.graph.nodes[3]``."""
        keys: list[str] = []
        cursor: Cursor | None = self
        while cursor is not None:
            keys.append(cursor._key)
            cursor = cursor._parent
        return keys[-1] + (": " + "".join(reversed(keys[:-1])).lstrip(".") if len(keys) > 1 else "")

    def refused(self, code: str, message: str) -> Refused:
        """An error at this place, to be raised."""
        return Refused(code, message, entry=self.path)

    def _wrong(self, wanted: str) -> Refused:
        return self.refused("field_invalid", f"{shown(self.value)} is not {wanted}.")

    def _child(self, key: str, value: Any) -> Cursor:
        is_plain = len(key) <= SHOWN and key.isascii() and key.isidentifier()
        return Cursor(value, f".{key}" if is_plain else f"[{shown(key)}]", self)

    def fields(self, required: str, optional: str = "") -> dict[str, Cursor]:
        """The fields of an object, by names separated by blanks; a null where one is optional counts as absent."""
        if not isinstance(self.value, dict):
            raise self._wrong("an object")
        needed, known = required.split(), optional.split()
        for key in self.value:
            if key not in needed and key not in known:
                raise self.refused("field_unknown", f"the field {shown(key)} is not known.")
        for key in needed:
            if key not in self.value:
                raise self.refused("field_missing", f"the field '{key}' is missing.")
        return {key: self._child(key, value) for key, value in self.value.items() if key in needed or value is not None}

    def items(self, most: int) -> Iterator[tuple[str, Cursor]]:
        """The pairs of an object with free keys."""
        if not isinstance(self.value, dict):
            raise self._wrong("an object")
        if len(self.value) > most:
            raise self.refused("json_too_large", f"{len(self.value)} entries, {most} are the most.")
        for key, value in self.value.items():
            yield key, self._child(key, value)

    def variant(self) -> tuple[str, Cursor]:
        """The one field of a union, with its name."""
        if not isinstance(self.value, dict) or len(self.value) != 1:
            raise self._wrong("an object with one field")
        ((key, value),) = self.value.items()
        return key, self._child(key, value)

    def unknown(self, key: str) -> Refused:
        """For a variant that nobody handles."""
        return self.refused("field_unknown", f"the variant {shown(key)} is not known.")

    def elements(self, most: int) -> list[Cursor]:
        """The elements of an array."""
        if not isinstance(self.value, list):
            raise self._wrong("an array")
        if len(self.value) > most:
            raise self.refused("json_too_large", f"{len(self.value)} elements, {most} are the most.")
        return [Cursor(value, f"[{index}]", self) for index, value in enumerate(self.value)]

    def integer(self, low: int = -INT64, high: int = INT64 - 1) -> int:
        """An integer within bounds."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self._wrong("an integer")
        if not low <= self.value <= high:
            raise self.refused("number_too_large", f"{shown(self.value)} is not within {low} and {high}.")
        return self.value

    def real(self) -> float | str:
        """A real number; what is not finite is written as the exporter does, in words."""
        if isinstance(self.value, str) and self.value in ("Infinity", "-Infinity", "NaN"):
            return self.value
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            raise self._wrong("a number")
        return float(self.value)

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self._wrong("true or false")
        return self.value

    def text(self, most: int) -> str:
        """A short string of printable ASCII."""
        if not isinstance(self.value, str):
            raise self._wrong("a string")
        if len(self.value) > most or not (self.value.isascii() and self.value.isprintable()):
            raise self._wrong(f"a string of at most {most} printable ASCII characters")
        return self.value

    def one_of(self, choices: tuple[Any, ...]) -> Any:
        """One of a few literals."""
        for choice in choices:
            if self.value == choice and type(self.value) is type(choice):
                return choice
        raise self._wrong(f"one of {', '.join(map(str, choices))}")
