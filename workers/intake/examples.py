"""Example inputs for a rebuilt program, written fresh: torch reads them as a pickle, which a stranger's must not be.

The pickle is put together from the few opcodes that it takes; its values are random numbers that are always the same.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.tensors import ITEM_BYTES, TensorMeta, extent
from aslconvert.workers.intake.trees import Tree
from aslconvert.workers.intake.zipwrite import ZipWriter

_STORAGES = {
    1: "Byte", 2: "Char", 3: "Short", 4: "Int", 5: "Long", 6: "Half", 7: "Float", 8: "Double", 12: "Bool",
    13: "BFloat16",
}  # fmt: skip
_REAL = {6: "e", 7: "f", 8: "d"}
_DRAWN = 1 << 16
_BFLOAT16 = 13

Leaf = TensorMeta | int | float | bool | str | None


def write_examples(tree: Tree, leaves: Sequence[Leaf], *, limits: Limits) -> bytes:
    """What torch.save writes for ``leaves`` nested as ``tree`` says; nothing where they would be too many elements."""
    total = sum(extent(leaf.shape) for leaf in leaves if isinstance(leaf, TensorMeta))
    if total > limits.example_elements:
        return b""
    writer = _Pickle(random.Random(0))
    writer.nest(tree, iter(leaves))
    file = io.BytesIO()
    archive = ZipWriter(file)
    for name, content in (("data.pkl", writer.finished()), ("byteorder", b"little")):
        archive.write(f"archive/{name}", [content], size=len(content))
    for index, content in enumerate(writer.storages):
        archive.write(f"archive/data/{index}", [content], size=len(content))
    archive.write("archive/version", [b"3\n"], size=2)
    archive.close()
    return file.getvalue()


class _Pickle:
    """Protocol 2, without memo: every value is written where it stands."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._out = bytearray(b"\x80\x02")
        self.storages: list[bytes] = []

    def finished(self) -> bytes:
        return bytes(self._out) + b"."

    def nest(self, tree: Tree, leaves: Iterator[Leaf]) -> None:
        if tree.kind == "leaf":
            self._leaf(next(leaves))
        elif tree.kind == "dict":
            self._out += b"}("
            for key, child in zip(tree.keys, tree.children, strict=True):
                self._value(key)
                self.nest(child, leaves)
            self._out += b"u"
        else:
            self._out += b"(" if tree.kind == "tuple" else b"]("
            for child in tree.children:
                self.nest(child, leaves)
            self._out += b"t" if tree.kind == "tuple" else b"e"

    def _leaf(self, leaf: Leaf) -> None:
        if not isinstance(leaf, TensorMeta):
            self._value(leaf)
            return
        count = extent(leaf.shape)
        self._out += b"ctorch._utils\n_rebuild_tensor_v2\n(("
        self._value("storage")
        self._out += f"ctorch\n{_STORAGES[leaf.dtype]}Storage\n".encode()
        for value in (str(len(self.storages)), "cpu", count):
            self._value(value)
        self._out += b"tQ"
        self._value(0)
        strides: list[int] = []
        step = 1
        for size in reversed(leaf.shape):
            strides.insert(0, step)
            step *= max(size, 1)
        for numbers in (leaf.shape, strides):
            self._out += b"("
            for number in numbers:
                self._value(number)
            self._out += b"t"
        self._value(False)
        self._out += b"ccollections\nOrderedDict\n)RtR"
        self.storages.append(self._numbers(leaf.dtype, count))

    def _value(self, value: Any) -> None:
        if value is None:
            self._out += b"N"
        elif isinstance(value, bool):
            self._out += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            # Any integer may be written in the long form.
            self._out += b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
        elif isinstance(value, float):
            self._out += b"G" + struct.pack(">d", value)
        else:
            encoded = str(value).encode("utf-8")
            self._out += b"X" + struct.pack("<I", len(encoded)) + encoded

    def _numbers(self, dtype: int, count: int) -> bytes:
        """Uniform on [0, 1) in real types as images are, zeros in all others; a long tensor repeats its start."""
        size = count * ITEM_BYTES[dtype]
        drawn = [self._draw.random() for _ in range(min(count, _DRAWN))]
        if dtype in _REAL:
            start = struct.pack(f"<{len(drawn)}{_REAL[dtype]}", *drawn)
        elif dtype == _BFLOAT16:
            start = b"".join(struct.pack("<f", number)[2:] for number in drawn)
        else:
            return bytes(size)
        return (start * (count // len(drawn) + 1))[:size]
