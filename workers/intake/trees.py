"""How inputs and outputs are nested: tuples, lists and dicts with string keys around leaves, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from aslconvert.workers.intake.jsontext import Cursor, parse
from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.names import is_dotted

_CONTAINERS = {"builtins.tuple": "tuple", "builtins.list": "list", "builtins.dict": "dict"}


@dataclass(frozen=True)
class Tree:
    """``kind`` is ``leaf``, ``tuple``, ``list`` or ``dict``; ``keys`` are those of a dict."""

    kind: str
    children: tuple[Tree, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def leaves(self) -> int:
        """How many values it holds."""
        return 1 if self.kind == "leaf" else sum(child.leaves for child in self.children)

    def printed(self) -> str:
        """As the exporter writes it."""
        return json.dumps([1, self._document()])

    def _document(self) -> dict[str, Any]:
        if self.kind == "leaf":
            return {"type": None, "context": None, "children_spec": []}
        context = json.dumps(list(self.keys)) if self.kind == "dict" else "null"
        return {
            "type": f"builtins.{self.kind}",
            "context": context,
            "children_spec": [child._document() for child in self.children],
        }


def parse_tree(text: Cursor, *, limits: Limits) -> Tree:
    """The tree in the JSON text that ``text`` holds. Raises Refused (``tree_invalid`` and the codes of JSON)."""
    if not isinstance(text.value, str):
        raise text.refused("tree_invalid", "It is no text.")
    document = parse(text.value.encode("utf-8", "replace"), entry=text.path, limits=limits)
    pair = document.elements(2)
    if len(pair) != 2 or pair[0].value != 1:
        raise document.refused("tree_invalid", "It is not of the known form.")
    tree = _tree(pair[1], limits)
    if tree.leaves > limits.tree_leaves:
        raise document.refused("tree_invalid", f"It has {tree.leaves} leaves, {limits.tree_leaves} are the most.")
    return tree


def _tree(cursor: Cursor, limits: Limits) -> Tree:
    # A null counts as absent, as the leaf's type is one.
    fields = cursor.fields("", "type context children_spec")
    children = tuple(_tree(child, limits) for child in fields["children_spec"].elements(limits.tree_leaves)) if (
        "children_spec" in fields
    ) else ()  # fmt: skip
    if "type" not in fields:
        if "context" in fields or children:
            raise cursor.refused("tree_invalid", "A leaf has no content.")
        return Tree("leaf")
    kind = _CONTAINERS.get(fields["type"].value) if isinstance(fields["type"].value, str) else None
    if kind is None:
        raise fields["type"].refused("tree_invalid", "Only tuples, lists and dicts are taken.")
    context = fields["context"].value if "context" in fields else None
    if kind != "dict":
        if context not in (None, "null"):
            raise cursor.refused("tree_invalid", "A tuple or list has no context.")
        return Tree(kind, children)
    return Tree(kind, children, _keys(fields.get("context", cursor), len(children), limits))


def _keys(context: Cursor, count: int, limits: Limits) -> tuple[str, ...]:
    if not isinstance(context.value, str):
        raise context.refused("tree_invalid", "The keys of a dict are missing.")
    document = parse(context.value.encode("utf-8", "replace"), entry=context.path, limits=limits)
    keys = tuple(cursor.value for cursor in document.elements(limits.tree_leaves))
    plain = all(isinstance(key, str) and is_dotted(f"k_{key}", limits.name_chars) for key in keys)
    if not plain or len(set(keys)) != count or len(keys) != count:
        raise context.refused("tree_invalid", "The keys of a dict are no unique plain names, one for each value.")
    return keys
