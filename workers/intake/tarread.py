"""Reads a tar block by block: plain files and folders only, names bounded before they are held."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.paths import entry_name
from aslconvert.workers.intake.refusal import Refused, shown

BLOCK = 1 << 20
RECORD = 512
_MEMORY = 128 << 20
"""Bytes that a decompressor may take."""
_NAME_BYTES = 64 << 10
_PACKED: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY),
}
_FILES, _FOLDER, _LONG_NAME, _OWN, _SHARED = b"0\0", b"5", b"L", b"x", b"g"


def is_packed(start: bytes) -> bool:
    """Whether a file that begins so is compressed as a whole."""
    return any(start.startswith(magic) for magic in _PACKED)


class Stream:
    """The bytes of a file, unpacked where it is compressed, and counted against the limits as they come."""

    def __init__(self, file: BinaryIO, *, limits: Limits) -> None:
        self._file, self._limits = file, limits
        file.seek(0)
        start = file.read(8)
        file.seek(0)
        self._make = next((make for magic, make in _PACKED.items() if start.startswith(magic)), None)
        self._blocks = self._unpacked() if self._make else self._plain()
        self._left = b""
        self._given = 0

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes, or fewer at the end."""
        parts, wanted = [], count
        while wanted:
            if not self._left:
                self._left = next(self._blocks, b"")
                if not self._left:
                    break
            part, self._left = self._left[:wanted], self._left[wanted:]
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def _plain(self) -> Iterator[bytes]:
        while block := self._file.read(BLOCK):
            yield self._count(block)

    def _unpacked(self) -> Iterator[bytes]:
        machine = self._make() if self._make else None
        try:
            while machine is not None and (block := self._file.read(BLOCK)):
                yield from self._pieces(machine, block)
                if machine.eof:
                    if machine.unused_data or self._file.read(1):
                        raise Refused("archive_hidden_data", "Something follows the compressed bytes.")
                    return
        except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError) as error:
            raise Refused("archive_damaged", "Its compressed bytes are no such.") from error
        raise Refused("archive_damaged", "Its compressed bytes are cut short.")

    def _pieces(self, machine: Any, block: bytes) -> Iterator[bytes]:
        """Bounded pieces; zlib hands back what it did not read, the others keep it."""
        keeps = hasattr(machine, "needs_input")
        while not machine.eof and (block or (keeps and not machine.needs_input)):
            piece = machine.decompress(block, BLOCK)
            block = b"" if keeps else machine.unconsumed_tail
            if piece:
                yield self._count(piece)
        while not keeps and not machine.eof and (piece := machine.decompress(b"", BLOCK)):
            yield self._count(piece)

    def _count(self, block: bytes) -> bytes:
        self._given += len(block)
        if self._given > self._limits.data_bytes:
            raise Refused("archive_too_large", f"It unpacks to over {self._limits.data_bytes} bytes.")
        if self._given > max(self._file.tell() * self._limits.ratio, self._limits.ratio_floor):
            raise Refused("archive_ratio", f"It unpacks to over {self._limits.ratio} times its size.")
        return block


def read_tar(file: BinaryIO, *, limits: Limits) -> Iterator[tuple[str, int, bool, Iterator[bytes]]]:
    """(name, size, whether it is a folder, blocks) of each entry; the blocks must be read before the next is asked for.

    Raises Refused: ``archive_damaged``, ``archive_link``, ``archive_path``, ``archive_hidden_data`` and those of sizes.
    """
    stream = Stream(file, limits=limits)
    name = ""
    while True:
        header = stream.take(RECORD)
        if len(header) < RECORD:
            raise Refused("archive_damaged", "The tar is cut short.")
        if not header.strip(b"\0"):
            break
        _check_sum(header)
        size, kind = _number(header[124:136]), header[156:157]
        if kind in (_LONG_NAME, _OWN, _SHARED):
            text = _body(stream, size)
            told = text.rstrip(b"\0") if kind == _LONG_NAME else _path(text)
            if told and kind != _SHARED:
                name = entry_name(told)
            continue
        # What `tar -C folder .` packs is all below a dot.
        name = (name or _name(header)).removeprefix("./")
        if kind == _FOLDER and name in ("", ".") and not size:
            name = ""
            continue
        if kind not in (_FILES[:1], _FILES[1:], _FOLDER):
            raise Refused("archive_link", "It is a link, a device or of an unknown kind.", entry=shown(name))
        if kind == _FOLDER and size:
            raise Refused("archive_mismatch", "A folder with content.", entry=shown(name))
        blocks = _content(stream, size)
        yield name, size, kind == _FOLDER or name.endswith("/"), blocks
        for _ in blocks:
            pass
        name = ""
    while rest := stream.take(BLOCK):
        if rest.strip(b"\0"):
            raise Refused("archive_hidden_data", "Something follows the end of the tar.")


def _check_sum(header: bytes) -> None:
    told = _number(header[148:156])
    if sum(header[:148]) + 8 * 32 + sum(header[156:]) != told:
        raise Refused("archive_damaged", "A header's checksum does not fit: it is no tar.")


def _number(digits: bytes) -> int:
    if digits[:1] == b"\x80":
        return int.from_bytes(digits[1:], "big")
    text = digits.strip(b" \0")
    if not text.isdigit() or b"8" in text or b"9" in text:
        raise Refused("archive_damaged", "A header holds a number that is none.")
    return int(text, 8)


def _name(header: bytes) -> str:
    name, prefix = header[:100].split(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0")[0]
    return entry_name(prefix + b"/" + name if prefix else name)


def _body(stream: Stream, size: int) -> bytes:
    if size > _NAME_BYTES:
        raise Refused("archive_path", f"A name is told in {size} bytes.")
    return b"".join(_content(stream, size))


def _path(text: bytes) -> bytes:
    """The path among the records ``LENGTH key=value`` of an extended header; what changes sizes is refused."""
    path = b""
    while text:
        length, space, _ = text.partition(b" ")
        if not space or not length.isdigit() or len(length) > 6 or not len(length) + 3 < int(length) <= len(text):
            raise Refused("archive_damaged", "An extended header is none.")
        key, _, value = text[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            path = value
        elif key in (b"size", b"linkpath", b"hdrcharset") or key.startswith(b"GNU.sparse"):
            raise Refused("archive_mismatch", f"An extended header sets {shown(key)}.")
        text = text[int(length) :]
    return path


def _content(stream: Stream, size: int) -> Iterator[bytes]:
    left = size
    while left:
        block = stream.take(min(left, BLOCK))
        if not block:
            raise Refused("archive_damaged", "The tar is cut short.")
        left -= len(block)
        yield block
    stream.take(-size % RECORD)
