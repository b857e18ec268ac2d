"""Headers of numpy's arrays, by a grammar of our own: numpy evaluates them as Python and takes pickles."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.refusal import Refused, shown
from aslconvert.workers.intake.tensors import extent

MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\s*\{\s*'descr'\s*:\s*'(?P<descr>[^']{1,16})'\s*,\s*'fortran_order'\s*:\s*(?P<fortran>True|False)\s*,"
    r"\s*'shape'\s*:\s*\((?P<shape>[0-9,\sL]{0,400})\)\s*,?\s*\}\s*\Z",
    re.ASCII,
)
_TYPES = {
    "|b1": 1, "|i1": 1, "|u1": 1, "<i2": 2, "<u2": 2, "<f2": 2, "<i4": 4, "<u4": 4, "<f4": 4, "<i8": 8, "<u8": 8,
    "<f8": 8,
}  # fmt: skip

_TEXT = re.compile(r"<U([1-9][0-9]?)")
"""Texts of at most 99 characters, of four bytes each: names of groups."""


@dataclass(frozen=True)
class Header:
    """An array's type, order and shape; ``nbytes`` of data follow."""

    descr: str
    is_fortran: bool
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of the data."""
        return 0 if 0 in self.shape else extent(self.shape) * (_bytes_of(self.descr) or 0)

    @property
    def is_text(self) -> bool:
        """Whether its elements are texts."""
        return _TEXT.fullmatch(self.descr) is not None

    def printed(self) -> bytes:
        """As numpy writes it, in version 1."""
        shape = "".join(f"{size}, " for size in self.shape).rstrip()
        shape = shape if len(self.shape) == 1 else shape.rstrip(",")
        text = f"{{'descr': '{self.descr}', 'fortran_order': {self.is_fortran}, 'shape': ({shape}), }}"
        text += " " * (-(len(MAGIC) + 4 + len(text) + 1) % 64) + "\n"
        return MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")


def split_header(blocks: Iterator[bytes], *, entry: str, limits: Limits) -> tuple[Header, Iterator[bytes]]:
    """The header of the array in ``blocks``, and the blocks of its data, which are counted as they come.

    Raises Refused: ``array_damaged``, ``array_pickled``, ``tensor_type``, ``tensor_too_large``.
    """
    start = b""
    while len(start) < limits.array_header_bytes + 12 and (block := next(blocks, b"")):
        start += block
    version = start[6:8]
    if start[:6] != MAGIC or version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise Refused("array_damaged", "It is no array of numpy.", entry=entry)
    width = 2 if version == b"\x01\x00" else 4
    length, begin = int.from_bytes(start[8 : 8 + width], "little"), 8 + width
    if length > limits.array_header_bytes or begin + length > len(start):
        raise Refused("array_damaged", f"Its header is of {length} bytes.", entry=entry)
    header = _header(start[begin : begin + length], entry, limits)
    return header, _counted(header, start[begin + length :], blocks, entry)


def _header(text: bytes, entry: str, limits: Limits) -> Header:
    if re.search(rb"'descr'\s*:\s*'[|<>=]?O", text):
        raise Refused("array_pickled", "Its elements are Python objects.", entry=entry)
    found = _HEADER.match(text.decode("latin-1"))
    if found is None:
        raise Refused("array_damaged", "Its header is not of the known form.", entry=entry)
    if _bytes_of(found["descr"]) is None:
        raise Refused("tensor_type", f"The element type {shown(found['descr'])} is not taken.", entry=entry)
    sizes = [size.strip().rstrip("L") for size in found["shape"].split(",")]
    if sizes[-1] == "":
        sizes.pop()
    if not all(size.isdigit() and len(size) < 19 for size in sizes):
        raise Refused("array_damaged", "Its shape is none.", entry=entry)
    shape = tuple(map(int, sizes))
    if len(shape) > limits.rank or extent(shape) > limits.data_bytes:
        raise Refused("tensor_too_large", "It has too many axes or elements.", entry=entry)
    return Header(found["descr"], found["fortran"] == "True", shape)


def _bytes_of(descr: str) -> int | None:
    text = _TEXT.fullmatch(descr)
    return _TYPES.get(descr) if text is None else 4 * int(text[1])


def _require_characters(data: bytes, entry: str) -> None:
    """That these are whole characters of Unicode: numpy takes any number, and Python fails at it later."""
    for low, high, highest in set(zip(data[1::4], data[2::4], data[3::4], strict=False)):
        if highest or high > 0x10 or (high == 0 and 0xD8 <= low <= 0xDF):
            raise Refused("array_damaged", "Its texts hold what is no character.", entry=entry)


def _counted(header: Header, first: bytes, blocks: Iterator[bytes], entry: str) -> Iterator[bytes]:
    left = header.nbytes
    block = first
    rest = b""
    while True:
        left -= len(block)
        if left < 0:
            raise Refused("array_damaged", "It has more bytes than its shape takes.", entry=entry)
        if header.is_text:
            whole = len(rest + block) // 4 * 4
            _require_characters((rest + block)[:whole], entry)
            rest = (rest + block)[whole:]
        if block:
            yield block
        following = next(blocks, None)
        if following is None:
            break
        block = following
    if left:
        raise Refused("array_damaged", f"{left} bytes are missing to its shape.", entry=entry)
