"""Reads a zip by its structure, byte by byte accounted for: what two readers could take differently is refused."""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.paths import entry_name, folded, safe_parts
from aslconvert.workers.intake.refusal import Refused, shown

STORED, DEFLATED = 0, 8
BLOCK = 1 << 20
_END, _END64, _LOCATOR64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_CENTRAL, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _DESCRIPTOR, _UTF8, _DEFLATE_LEVEL = 0x1, 0x8, 0x800, 0x6


@dataclass(frozen=True)
class Entry:
    """A file in the archive; ``start`` is where its ``stored`` bytes begin, ``size`` what they unpack to."""

    name: str
    method: int
    start: int
    stored: int
    size: int
    crc: int
    is_folder: bool


@dataclass(frozen=True)
class _Header:
    """A record of the central directory."""

    entry: Entry
    offset: int
    flags: int
    raw_name: bytes


class ZipFile:
    """The entries of a zip whose structure holds; ``entries`` is by name, in the order of the file.

    Raises Refused with one of the ``archive_`` codes. Only stored entries unless ``compressed``.
    """

    def __init__(self, file: BinaryIO, *, limits: Limits, most_entries: int, compressed: bool = False) -> None:
        self._file = file
        self._limits = limits
        self._size = file.seek(0, 2)
        self._compressed = compressed
        count, start, end = self._directory()
        if count > most_entries:
            raise Refused("archive_entries", f"{count} entries, {most_entries} are the most.")
        headers = self._headers(count, start, end)
        self.entries = {header.entry.name: header.entry for header in self._located(headers, start)}

    def read(self, entry: Entry, *, at_most: int) -> bytes:
        """All bytes of ``entry``. Raises Refused: ``archive_too_large``, ``archive_checksum``, ``archive_damaged``."""
        if entry.size > at_most:
            raise Refused("archive_too_large", f"{entry.size} bytes, {at_most} are the most.", entry=shown(entry.name))
        return b"".join(self.blocks(entry))

    def blocks(self, entry: Entry) -> Iterator[bytes]:
        """The bytes of ``entry`` in pieces; counted and summed as they come, whatever its headers say."""
        left, crc = entry.size, 0
        for block in self._stored(entry) if entry.method == STORED else self._inflated(entry):
            left -= len(block)
            if left < 0:
                raise Refused("archive_mismatch", "It unpacks to more than it declares.", entry=shown(entry.name))
            crc = zlib.crc32(block, crc)
            yield block
        if left:
            raise Refused("archive_mismatch", "It unpacks to less than it declares.", entry=shown(entry.name))
        if crc != entry.crc:
            raise Refused("archive_checksum", "Its bytes are not those that were stored.", entry=shown(entry.name))

    def _at(self, offset: int, count: int) -> bytes:
        if offset < 0 or offset + count > self._size:
            raise Refused("archive_damaged", "A part of it lies outside the file.")
        self._file.seek(offset)
        found = self._file.read(count)
        if len(found) != count:
            raise Refused("archive_damaged", "The file became shorter while it was read.")
        return found

    def _directory(self) -> tuple[int, int, int]:
        """(entries, start, end) of the central directory; the file ends with its end record."""
        where = self._size - _END.size
        if where < 0:
            raise Refused("archive_damaged", "It is shorter than any zip.")
        magic, disk, first_disk, here, count, size, start, comment = _END.unpack(self._at(where, _END.size))
        if magic != b"PK\x05\x06" or comment:
            raise Refused("archive_damaged", "It does not end with the end record of a zip, or has a comment.")
        if where >= _LOCATOR64.size and self._at(where - _LOCATOR64.size, 4) == b"PK\x06\x07":
            where, count, size, start = self._directory64(where - _LOCATOR64.size, (here, count, size, start))
        elif disk or first_disk or here != count:
            raise Refused("archive_multi_disk", "Its parts are on several disks.")
        if start + size != where:
            raise Refused("archive_hidden_data", "The central directory does not reach to the end record.")
        return count, start, where

    def _directory64(self, locator: int, short: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        _, disk, where, disks = _LOCATOR64.unpack(self._at(locator, _LOCATOR64.size))
        if disk or disks > 1:
            raise Refused("archive_multi_disk", "Its parts are on several disks.")
        if where + _END64.size != locator:
            raise Refused("archive_hidden_data", "The long end record is not before its locator.")
        magic, length, _, _, disk, first_disk, here, count, size, start = _END64.unpack(self._at(where, _END64.size))
        if magic != b"PK\x06\x06" or length != _END64.size - 12:
            raise Refused("archive_damaged", "The long end record is not one.")
        if disk or first_disk or here != count:
            raise Refused("archive_multi_disk", "Its parts are on several disks.")
        limits = (_FULL16, _FULL16, _FULL32, _FULL32)
        for value, long, full in zip(short, (here, count, size, start), limits, strict=True):
            if value not in (long, full):
                raise Refused("archive_mismatch", "The short and the long end record disagree.")
        return where, count, size, start

    def _headers(self, count: int, start: int, end: int) -> list[_Header]:
        headers: list[_Header] = []
        seen: set[str] = set()
        for _ in range(count):
            header, start = self._header(start, end)
            key = folded(header.entry.name)
            if key in seen:
                raise Refused("archive_duplicate_entry", "The name is there twice.", entry=shown(header.entry.name))
            seen.add(key)
            headers.append(header)
        if start != end:
            raise Refused("archive_hidden_data", "The central directory is longer than its entries.")
        return headers

    def _header(self, at: int, end: int) -> tuple[_Header, int]:
        if at + _CENTRAL.size > end:
            raise Refused("archive_damaged", "The central directory is cut short.")
        (
            magic, _, _, flags, method, _, _, crc, stored, size, name_length, extra_length, comment_length, disk, _,
            attributes, offset,
        ) = _CENTRAL.unpack(self._at(at, _CENTRAL.size))  # fmt: skip
        after = at + _CENTRAL.size + name_length + extra_length + comment_length
        if magic != b"PK\x01\x02" or after > end:
            raise Refused("archive_damaged", "The central directory holds something else.")
        raw_name = self._at(at + _CENTRAL.size, name_length)
        name = entry_name(raw_name)
        safe_parts(name)
        extra = self._at(at + _CENTRAL.size + name_length, extra_length)
        size, stored, offset = _long(extra, (size, stored, offset), name)
        self._check(name, flags, method, stored, size)
        if disk:
            raise Refused("archive_multi_disk", "It is on another disk.", entry=shown(name))
        mode = attributes >> 16
        if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise Refused("archive_link", "It is a link or a device.", entry=shown(name))
        entry = Entry(name, method, offset, stored, size, crc, name.endswith("/"))
        if entry.is_folder and size:
            raise Refused("archive_mismatch", "A folder with content.", entry=shown(name))
        return _Header(entry, offset, flags, raw_name), after

    def _check(self, name: str, flags: int, method: int, stored: int, size: int) -> None:
        entry = shown(name)
        if flags & ~(_DESCRIPTOR | _UTF8 | _DEFLATE_LEVEL):
            code = "archive_encrypted" if flags & (_ENCRYPTED | 0x40 | 0x2000) else "archive_compressed"
            raise Refused(code, f"Its flags are {flags:#x}.", entry=entry)
        if method != STORED and not (self._compressed and method == DEFLATED):
            raise Refused("archive_compressed", f"It is compressed by method {method}.", entry=entry)
        if method == STORED and stored != size:
            raise Refused("archive_mismatch", "It is stored, and of two sizes.", entry=entry)
        if size > max(stored * self._limits.ratio, self._limits.ratio_floor):
            raise Refused("archive_ratio", f"{stored} bytes declare to unpack to {size}.", entry=entry)

    def _located(self, headers: list[_Header], directory: int) -> Iterator[_Header]:
        """Headers with the place of their data; the records lie side by side from the first byte to the directory."""
        at = 0
        for header in sorted(headers, key=lambda header: header.offset):
            if header.offset != at:
                code = "archive_overlap" if header.offset < at else "archive_hidden_data"
                raise Refused(code, f"Its record is not at {at}.", entry=shown(header.entry.name))
            start, at = self._local(header)
            if at > directory:
                raise Refused("archive_overlap", "It reaches into the directory.", entry=shown(header.entry.name))
            entry = header.entry
            yield _Header(
                Entry(entry.name, entry.method, start, entry.stored, entry.size, entry.crc, entry.is_folder),
                header.offset,
                header.flags,
                header.raw_name,
            )
        if at != directory:
            raise Refused("archive_hidden_data", "There are bytes between the entries and the directory.")

    def _local(self, header: _Header) -> tuple[int, int]:
        """(start of the data, end of the record); what the local header says must be what the directory says."""
        entry, place = header.entry, shown(header.entry.name)
        magic, _, flags, method, _, _, crc, stored, size, name_length, extra_length = _LOCAL.unpack(
            self._at(header.offset, _LOCAL.size)
        )
        if magic != b"PK\x03\x04":
            raise Refused("archive_mismatch", "There is no local header for it.", entry=place)
        start = header.offset + _LOCAL.size + name_length + extra_length
        name = self._at(header.offset + _LOCAL.size, name_length)
        extra = self._at(header.offset + _LOCAL.size + name_length, extra_length)
        wide = size == _FULL32 or stored == _FULL32
        size, stored, _ = _long(extra, (size, stored, 0), entry.name)
        if name != header.raw_name or method != entry.method or flags != header.flags:
            raise Refused("archive_mismatch", "Local header and directory name it otherwise.", entry=place)
        said, known = (crc, stored, size), (entry.crc, entry.stored, entry.size)
        if said != known and not (flags & _DESCRIPTOR and said == (0, 0, 0)):
            raise Refused("archive_mismatch", "Local header and directory give it other sizes.", entry=place)
        end = start + entry.stored
        if flags & _DESCRIPTOR:
            end += self._descriptor(end, known, wide, place)
        return start, end

    def _descriptor(self, at: int, known: tuple[int, int, int], wide: bool, place: str) -> int:
        """The length of the record after the data that repeats its sizes."""
        for layout in ("<4s3L", "<4sL2Q") if not wide else ("<4sL2Q", "<4s3L"):
            length = struct.calcsize(layout)
            if at + length <= self._size:
                magic, *values = struct.unpack(layout, self._at(at, length))
                if magic == b"PK\x07\x08" and tuple(values) == known:
                    return length
        raise Refused("archive_mismatch", "The sizes after the data are not the directory's.", entry=place)

    def _stored(self, entry: Entry) -> Iterator[bytes]:
        for done in range(0, entry.stored, BLOCK):
            yield self._at(entry.start + done, min(BLOCK, entry.stored - done))

    def _inflated(self, entry: Entry) -> Iterator[bytes]:
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            for block in self._stored(entry):
                while block:
                    if piece := machine.decompress(block, BLOCK):
                        yield piece
                    block = machine.unconsumed_tail
            while piece := machine.decompress(b"", BLOCK):
                yield piece
        except zlib.error as error:
            raise Refused("archive_damaged", "Its compressed bytes are no such.", entry=shown(entry.name)) from error
        if not machine.eof or machine.unused_data:
            raise Refused("archive_mismatch", "Its compressed bytes end elsewhere.", entry=shown(entry.name))


def _long(extra: bytes, values: tuple[int, int, int], name: str) -> tuple[int, int, int]:
    """``values`` with those of the zip64 field in place of the ones that are full."""
    known: bytes | None = None
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        if len(body) != length:
            raise Refused("archive_damaged", "Its extra field is cut short.", entry=shown(name))
        if tag == 1:
            if known is not None:
                raise Refused("archive_mismatch", "It has two long sizes.", entry=shown(name))
            known = body
        at += 4 + length
    found = []
    for value in values:
        if value == _FULL32 and known is not None:
            if len(known) < 8:
                raise Refused("archive_damaged", "Its long size is cut short.", entry=shown(name))
            value, known = int.from_bytes(known[:8], "little"), known[8:]
        found.append(value)
    return found[0], found[1], found[2]
