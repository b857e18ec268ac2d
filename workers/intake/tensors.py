"""What is said of a tensor: element type, sizes, strides; and whether its elements lie where it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aslconvert.workers.intake.jsontext import Cursor
from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.symbolic import Expression, parse_expression

ITEM_BYTES: dict[int, int] = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
"""Bytes of an element by the exporter's number of its type: uint8 to int64, half to double, bool, bfloat16."""

DEVICES = ("cpu", "cuda")
STRIDED = 7
_LAYOUTS = (STRIDED,)
MEMORY_FORMATS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Size:
    """A number, or an expression with the number that it had in the example."""

    value: int | Expression
    hint: int | None = None

    @property
    def example(self) -> int:
        """What it is in the example; 1 where that is not told."""
        if isinstance(self.value, int):
            return self.value
        return 1 if self.hint is None else self.hint

    def document(self) -> dict[str, Any]:
        """As the exporter writes it."""
        if isinstance(self.value, int):
            return {"as_int": self.value}
        hint = None if self.hint is None else {"as_int": self.hint}
        return {"as_expr": {"expr_str": self.value.printed(), "hint": hint}}


@dataclass(frozen=True)
class TensorMeta:
    """``offset`` and ``strides`` count elements. Every device becomes the CPU: loading asks for no other."""

    dtype: int
    sizes: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Size
    requires_grad: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes as in the example."""
        return tuple(size.example for size in self.sizes)

    def document(self) -> dict[str, Any]:
        """As the exporter writes it."""
        return {
            "dtype": self.dtype,
            "sizes": [size.document() for size in self.sizes],
            "requires_grad": self.requires_grad,
            "device": device_document(),
            "strides": [size.document() for size in self.strides],
            "storage_offset": self.offset.document(),
            "layout": STRIDED,
        }


def device_document() -> dict[str, Any]:
    """The only device of a rebuilt program."""
    return {"type": "cpu", "index": None}


def read_device(cursor: Cursor) -> None:
    """Raises Refused (``tensor_type``) for a device that is neither CPU nor CUDA."""
    fields = cursor.fields("type", "index")
    if fields["type"].value not in DEVICES:
        raise cursor.refused("tensor_type", "Only the devices cpu and cuda are taken.")
    if "index" in fields:
        fields["index"].integer(0, 64)


def read_dtype(cursor: Cursor) -> int:
    """Raises Refused (``tensor_type``)."""
    number = cursor.integer()
    if number not in ITEM_BYTES:
        raise cursor.refused("tensor_type", f"the element type {number} is not taken.")
    return number


def read_size(cursor: Cursor, *, limits: Limits, low: int = 0) -> Size:
    """A size, stride or offset."""
    kind, inner = cursor.variant()
    if kind == "as_int":
        return Size(inner.integer(low))
    if kind != "as_expr":
        raise cursor.unknown(kind)
    fields = inner.fields("expr_str", "hint")
    expression = parse_expression(fields["expr_str"].value, entry=fields["expr_str"].path, limits=limits)
    hint: int | None = None
    if "hint" in fields:
        kind, number = fields["hint"].variant()
        if kind != "as_int":
            raise fields["hint"].unknown(kind)
        hint = number.integer(low)
    return Size(expression, hint)


def read_tensor(cursor: Cursor, *, limits: Limits) -> TensorMeta:
    """Raises Refused: ``tensor_type``, ``tensor_too_large`` and the codes of fields and expressions."""
    fields = cursor.fields("dtype sizes requires_grad device strides storage_offset layout")
    if fields["layout"].value != STRIDED or isinstance(fields["layout"].value, bool):
        raise fields["layout"].refused("tensor_type", "Only dense tensors are taken.")
    read_device(fields["device"])
    sizes = tuple(read_size(size, limits=limits) for size in fields["sizes"].elements(64))
    strides = tuple(read_size(stride, limits=limits) for stride in fields["strides"].elements(64))
    if len(sizes) != len(strides):
        raise cursor.refused("field_invalid", f"{len(sizes)} sizes and {len(strides)} strides.")
    if len(sizes) > limits.rank:
        raise cursor.refused("tensor_too_large", f"rank {len(sizes)}, {limits.rank} is the most.")
    meta = TensorMeta(
        read_dtype(fields["dtype"]),
        sizes,
        strides,
        read_size(fields["storage_offset"], limits=limits),
        fields["requires_grad"].boolean(),
    )
    if extent(meta.shape) > limits.tensor_elements:
        raise cursor.refused("tensor_too_large", f"{extent(meta.shape)} elements, {limits.tensor_elements} the most.")
    return meta


def extent(shape: Sequence[int]) -> int:
    """The elements of a shape, counting a size of zero as one: an empty tensor may have no huge size either."""
    return math.prod(max(size, 1) for size in shape)


def check_stored(meta: TensorMeta, nbytes: int, cursor: Cursor) -> None:
    """That a stored tensor lies within a record of ``nbytes`` and no two of its elements share memory.

    Raises Refused: ``field_invalid``, ``weights_out_of_bounds``, ``weights_overlap``.
    """
    if not all(isinstance(size.value, int) for size in (*meta.sizes, *meta.strides, meta.offset)):
        raise cursor.refused("field_invalid", "A stored tensor has numbers for sizes.")
    item, shape = ITEM_BYTES[meta.dtype], meta.shape
    if nbytes % item:
        raise cursor.refused("weights_out_of_bounds", f"{nbytes} bytes hold no whole elements of {item}.")
    if 0 in shape:
        return
    axes = sorted((stride.example, size) for size, stride in zip(shape, meta.strides, strict=True) if size > 1)
    reach = 0
    for stride, size in axes:
        # Sorted so, each axis must step over all that the smaller ones reach.
        if stride <= reach:
            raise cursor.refused("weights_overlap", f"shape {list(shape)} with a stride of {stride}.")
        reach += stride * (size - 1)
    if (meta.offset.example + reach + 1) * item > nbytes:
        raise cursor.refused("weights_out_of_bounds", f"{nbytes} bytes are fewer than shape {list(shape)} reaches.")
