"""What every blob store offers: bytes under their SHA-256, visible whole or not at all."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol, cast

from aslconvert.workers.errors import BlobNotFound, DamagedBlob, UserError

CHUNK: Final = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Blob:
    """Stored bytes: the SHA-256 in lower-case hexadecimal, the size in bytes."""

    hash: str
    size: int


# Called when hash and size are known and before the blob can be seen; what it raises refuses the blob.
Admit = Callable[[Blob], None]
Source = BinaryIO | Iterable[bytes]


class BlobStore(Protocol):
    """Bytes by their hash; quotas and references are the callers' business.

    Every method raises InfrastructureError (``disk_full``, ``storage_unavailable``) when the store cannot be used, and
    BlobNotFound where it is asked for a blob that it has not.
    """

    def put(self, source: Source, *, admit: Admit | None = None) -> Blob:
        """Store what a stream gives, in bounded memory."""
        ...

    def adopt(self, path: Path, *, admit: Admit | None = None) -> Blob:
        """Store a local file and take it away. Raises UserError ``not_a_file``."""
        ...

    def open(self, digest: str) -> BinaryIO:
        """A stream that raises DamagedBlob in place of the last bytes if all of them do not have this hash."""
        ...

    def read_range(self, digest: str, start: int, length: int) -> Iterator[bytes]:
        """At most ``length`` bytes from ``start``; a part has no hash to check. Raises UserError ``bad_range``."""
        ...

    def exists(self, digest: str) -> bool:
        """Whether the blob is here."""
        ...

    def size(self, digest: str) -> int:
        """Its bytes."""
        ...

    def delete(self, digest: str) -> None:
        """Remove it, if it is here."""
        ...

    def stored(self) -> Iterator[Blob]:
        """Every blob that is here, in no order."""
        ...

    def sweep(self, *, older_than: float) -> int:
        """Remove what writers that died left behind more than ``older_than`` seconds ago; how many files."""
        ...


class VerifiedReader(io.RawIOBase):
    """Bytes from a source whose last chunk is handed out only once all of them have the promised hash."""

    def __init__(self, source: BinaryIO, digest: str, size: int) -> None:
        self._source = source
        self._digest = digest
        self._left = size
        self._hash = hashlib.sha256()
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._ended:
            return 0
        view = memoryview(buffer).cast("B")
        chunk = self._source.read(min(len(view), self._left)) if self._left else b""
        self._hash.update(chunk)
        self._left -= len(chunk)
        if self._left and not chunk:
            raise DamagedBlob(self._digest)
        if not self._left:
            self._ended = True
            if self._source.read(1) or self._hash.hexdigest() != self._digest:
                raise DamagedBlob(self._digest)
        view[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._source.close()
        super().close()


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 in lower-case hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


def checked_digest(digest: str) -> str:
    """The digest, which is about to become part of a path.

    Raises:
        BlobNotFound: it is none.
    """
    if not is_digest(digest):
        raise BlobNotFound(digest[:64])
    return digest


def checked_range(start: int, length: int, size: int) -> tuple[int, int]:
    """Start and end within the blob. Raises UserError ``bad_range``."""
    if start < 0 or length < 0 or start > size:
        raise UserError("bad_range", f"The blob has {size} bytes: there are none from {start} for {length}.")
    return start, min(size, start + length)


def chunks_of(source: Source) -> Iterator[bytes]:
    """The bytes of a stream in bounded pieces."""
    if not hasattr(source, "read"):
        yield from source
        return
    file = cast(BinaryIO, source)
    while chunk := file.read(CHUNK):
        yield chunk
