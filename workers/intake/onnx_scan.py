"""Counts the parts of an ONNX message on its bytes alone, before a parser makes an object of each."""

from __future__ import annotations

from aslconvert.workers.intake.refusal import Refused

_Tree = dict[int, "_Tree"]
_TENSOR: _Tree = {13: {}}
_TYPE: _Tree = {1: {2: {1: {}}}}
_VALUE: _Tree = {2: _TYPE}
_ATTRIBUTE: _Tree = {5: _TENSOR, 10: _TENSOR}
_NODE: _Tree = {5: _ATTRIBUTE}
_GRAPH: _Tree = {1: _NODE, 5: _TENSOR, 11: _VALUE, 12: _VALUE, 13: _VALUE}
MODEL: _Tree = {7: _GRAPH, 8: {}}
"""By number of a field the message that it holds; what is not here is counted as one part."""


def scan(content: bytes, *, most: int) -> None:
    """Raises Refused: ``onnx_damaged``, or ``onnx_too_large`` for more than ``most`` fields."""
    left = most
    stack: list[tuple[int, int, _Tree]] = [(0, len(content), MODEL)]
    while stack:
        at, end, tree = stack.pop()
        while at < end:
            left -= 1
            if left < 0:
                raise Refused("onnx_too_large", f"It has more than {most} parts.")
            tag, at = _varint(content, at, end)
            field, wire = tag >> 3, tag & 7
            start = at
            if wire == 0:
                _, at = _varint(content, at, end)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            elif wire == 2:
                length, start = _varint(content, at, end)
                at = start + length
            else:
                raise Refused("onnx_damaged", "It is no message of protobuf.")
            if at > end or field == 0:
                raise Refused("onnx_damaged", "It is cut short or no message of protobuf.")
            if wire == 2 and field in tree:
                stack.append((start, at, tree[field]))


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise Refused("onnx_damaged", "It is cut short or no message of protobuf.")
