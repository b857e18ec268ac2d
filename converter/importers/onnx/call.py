"""One operator call as its rule sees it: operands as tensors or as known numbers, attributes with their defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aslconvert.converter.importers.onnx.file import DTYPES, Node
from aslconvert.converter.importers.onnx.refusals import (
    bad_graph,
    dynamic_value,
    unsupported_attribute,
    unsupported_type,
)
from aslconvert.converter.importers.onnx.values import INTEGERS, Constant, Host, Value

Store = Callable[[Constant, str, Node], Tensor]
"""Gives a constant's tensor in the module being built; the role (``weight``) names constants that have no name."""


@dataclass(frozen=True)
class Call:
    """A node with the values of its operands; optional operands that are left out are None."""

    node: Node
    opset: int
    values: Sequence[Value | None]
    store: Store

    def has(self, index: int) -> bool:
        """Whether the operand is given."""
        return index < len(self.values) and self.values[index] is not None

    def value(self, index: int) -> Value:
        """The operand as it is. Raises ModelRefused (``bad_graph``) where it is missing."""
        value = self.values[index] if index < len(self.values) else None
        if value is None:
            raise bad_graph(self.node.where, f"operand {index} is missing.")
        return value

    def tensor(self, index: int, role: str = "value") -> Tensor:
        """The operand as a tensor of the graph."""
        value = self.value(index)
        if isinstance(value, Constant):
            return self.store(value, role, self.node)
        return value.tensor() if isinstance(value, Host) else value

    def optional(self, index: int, role: str = "value") -> Tensor | None:
        """The operand as a tensor, or None."""
        return self.tensor(index, role) if self.has(index) else None

    def term(self, index: int, role: str = "value") -> Tensor | float | int | bool:
        """The operand of an elementwise operator: a constant of one element becomes a number."""
        value = self.value(index)
        known = value.numbers if isinstance(value, Constant) else value
        if isinstance(known, Host) and known.items.ndim == 0:
            number: float | int | bool = known.items.item()
            return number
        return self.tensor(index, role)

    def host(self, index: int) -> Host:
        """The operand as known numbers. Raises ModelRefused (``dynamic_value``)."""
        value = self.value(index)
        known = value.numbers if isinstance(value, Constant) else value
        if isinstance(known, Host):
            return known
        raise dynamic_value(self.node.where, f"operand {index}")

    def hosts(self) -> list[Host] | None:
        """All operands as known numbers, where that is what they are: at least one size, the rest small constants."""
        given = [value for value in self.values if value is not None]
        if not any(isinstance(value, Host) for value in given):
            return None
        known = [isinstance(v, Host) or (isinstance(v, Constant) and v.numbers is not None) for v in given]
        return [self.host(i) for i, v in enumerate(self.values) if v is not None] if all(known) else None

    def ints(self, index: int) -> list[int]:
        """The operand as integers, or symbols for them. Raises ModelRefused (``dynamic_value``, ``bad_graph``)."""
        host = self.host(index)
        if host.dtype not in INTEGERS:
            raise bad_graph(self.node.where, f"operand {index} holds no integers.")
        values: list[int] = host.items.reshape(-1).tolist()
        return values

    def number(self, index: int, default: float | None = None) -> Any:
        """The operand as one number, or ``default`` where it is left out."""
        if not self.has(index):
            return default
        items = self.host(index).items
        if items.size != 1:
            raise bad_graph(self.node.where, f"operand {index} has {items.size} elements instead of one.")
        return items.reshape(-1)[0]

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's value, or ``default``; its kind must be that of ``default``."""
        value = self.node.attributes.get(name, default)
        kind = type(default)
        if default is not None and not isinstance(value, float if kind is float else kind):
            raise bad_graph(self.node.where, f"the attribute '{name}' has a value of the wrong kind.")
        return value

    def int_list(self, name: str, length: int, default: int) -> list[int]:
        """A list attribute of ``length`` integers, all ``default`` where it is left out."""
        value = self.node.attributes.get(name)
        if value is None:
            return [default] * length
        if not isinstance(value, list) or len(value) != length or not all(isinstance(item, int) for item in value):
            raise bad_graph(self.node.where, f"the attribute '{name}' is not a list of {length} integers.")
        return value

    def require(self, name: str, default: Any, *allowed: Any) -> Any:
        """An attribute of which only some values are known. Raises ModelRefused (``unsupported_attribute``)."""
        value = self.attribute(name, default)
        if value not in (allowed or (default,)):
            raise self.unsupported(f"{name}={value!r}")
        return value

    def only_first_output(self) -> None:
        """Refuse further outputs. Raises ModelRefused (``unsupported_attribute``)."""
        if any(self.node.outputs[1:]):
            raise self.unsupported(f"the output '{next(filter(None, self.node.outputs[1:]))}'")

    def unsupported(self, what: str) -> Exception:
        """The refusal of ``what``."""
        return unsupported_attribute(self.node.where, what)

    def dtype(self, number: int) -> torch.dtype:
        """The torch type with ONNX's number. Raises ModelRefused (``unsupported_type``)."""
        if number not in DTYPES:
            raise unsupported_type(self.node.where, f"element type {number}")
        return DTYPES[number]


def axis_of(call: Call, axis: int, rank: int) -> int:
    """``axis`` counted from the front. Raises ModelRefused (``bad_graph``) where the tensor has no such axis."""
    if not -rank <= axis < max(rank, 1):
        raise bad_graph(call.node.where, f"axis {axis} of a tensor of rank {rank}.")
    return axis % rank if rank else 0
