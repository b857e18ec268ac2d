"""Pieces of a file for sending, each read ahead into the hash of all that came before it."""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from aslconvert.service.client.sent import CHUNK
from aslconvert.service.client.steps import FilePart

if TYPE_CHECKING:
    from hashlib import _Hash


class Pieces:
    """Not safe for threads. Each byte is hashed once, unless the server has kept less of a piece than was sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Up to where the last pieces went, so that going back a little need not begin at the first byte.
        self._known: deque[tuple[int, _Hash]] = deque([(0, hashlib.sha256())], maxlen=4)

    def take(self, start: int, most: int) -> tuple[FilePart, str]:
        """At most ``most`` bytes from ``start``, and the SHA-256 in base64 of all up to their end. Raises OSError."""
        near = [known for known in self._known if known[0] <= start]
        at, digest = max(near, key=lambda known: known[0], default=(0, hashlib.sha256()))
        digest = digest.copy()
        at += self._read(at, start - at, digest)
        length = self._read(at, most, digest)
        self._known.append((at + length, digest))
        return FilePart(self._path, start, length), base64.b64encode(digest.digest()).decode()

    def _read(self, start: int, most: int, digest: _Hash) -> int:
        read = 0
        with self._path.open("rb", buffering=0) as file:
            file.seek(start)
            while read < most and (chunk := file.read(min(CHUNK, most - read))):
                digest.update(chunk)
                read += len(chunk)
        return read
