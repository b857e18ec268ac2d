"""The values of one graph: what is defined so far, under the name in the file and the name it gets."""

from __future__ import annotations

from dataclasses import dataclass, field

from aslconvert.workers.intake.jsontext import Cursor
from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.names import is_identifier

TENSOR, INT, BOOL, FLOAT, CONSTANT = "tensor", "sym_int", "sym_bool", "sym_float", "constant"


@dataclass
class Scope:
    """Names are given anew, ``conv2d_1`` for the first convolution, but for inputs that the caller sees."""

    limits: Limits
    kinds: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _counts: dict[str, int] = field(default_factory=dict)

    def define(self, cursor: Cursor, kind: str, base: str) -> str:
        """A new value called after ``base``; gives its new name. Raises Refused (``name_invalid, name_duplicate``)."""
        name = self._fresh(cursor)
        return self._keep(name, kind, self.made(base))

    def define_as(self, cursor: Cursor, kind: str, wanted: str = "") -> str:
        """A new value that keeps its name, or gets exactly ``wanted``."""
        name = self._fresh(cursor)
        if (wanted or name) in self._used:
            raise cursor.refused("name_duplicate", f"'{wanted or name}' is there twice.")
        return self._keep(name, kind, wanted or name)

    def made(self, base: str) -> str:
        """A name that no value has, for a node that is none itself."""
        while True:
            self._counts[base] = count = self._counts.get(base, 0) + 1
            name = f"{base}_{count}"
            if name not in self._used:
                self._used.add(name)
                return name

    def use(self, cursor: Cursor, kind: str) -> str:
        """The new name of a value that must be of ``kind``. Raises Refused (``name_undefined``)."""
        name = cursor.value
        if not isinstance(name, str) or self.kinds.get(name) != kind:
            raise cursor.refused("name_undefined", f"no {kind} of this name is defined before.")
        return self.renamed[name]

    def _fresh(self, cursor: Cursor) -> str:
        name = cursor.value
        if not is_identifier(name, self.limits.name_chars):
            raise cursor.refused("name_invalid", "it is no plain identifier.")
        if name in self.kinds:
            raise cursor.refused("name_duplicate", f"'{name}' is there twice.")
        return str(name)

    def _keep(self, name: str, kind: str, new: str) -> str:
        self.kinds[name], self.renamed[name] = kind, new
        self._used.add(new)
        return new
