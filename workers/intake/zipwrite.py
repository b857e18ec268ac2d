"""Writes the zip that torch reads: stored records, aligned, with fixed times, so that equal content is equal bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import BinaryIO

ALIGNMENT = 64
_TIME, _DATE = 0, 33
"""The first day that a zip can tell."""
_LONGEST = 0xFFFFFFFF
LARGEST = 7 << 29
"""Bytes of content that surely fit: 3.5 GiB, which leaves half a GiB to headers."""


class ZipWriter:
    """Appends records one after the other; ``close`` writes the directory. Files of less than 4 GiB."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._directory: list[bytes] = []
        self._at = 0

    def write(self, name: str, blocks: Iterable[bytes], *, size: int) -> None:
        """A record of ``size`` bytes. Raises ValueError where the blocks hold another number."""
        encoded = name.encode("ascii")
        padding = -(self._at + 30 + len(encoded) + 4) % ALIGNMENT
        extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        header = self._at
        data = header + 30 + len(encoded) + len(extra)
        if data + size > _LONGEST:
            raise ValueError("a zip without long sizes holds less than 4 GiB")
        crc = written = 0
        self._file.seek(data)
        for block in blocks:
            self._file.write(block)
            crc, written = zlib.crc32(block, crc), written + len(block)
        if written != size:
            raise ValueError(f"{name} has {written} bytes, {size} were announced")
        common = struct.pack("<4H3L2H", 0, 0, _TIME, _DATE, crc, size, size, len(encoded), len(extra))
        self._file.seek(header)
        self._file.write(b"PK\x03\x04" + struct.pack("<H", 20) + common + encoded + extra)
        self._at = data + size
        common = struct.pack("<4H3L5H2L", 0, 0, _TIME, _DATE, crc, size, size, len(encoded), 0, 0, 0, 0, 0, header)
        self._directory.append(b"PK\x01\x02" + struct.pack("<2H", 20, 20) + common + encoded)

    def close(self) -> None:
        """Ends the archive; the file stays open."""
        directory = b"".join(self._directory)
        count = len(self._directory)
        self._file.seek(self._at)
        self._file.write(directory)
        self._file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), self._at, 0))
        self._file.truncate()
