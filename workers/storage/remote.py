"""Blobs in an object store that speaks S3, or any other that obstore knows."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import obstore
from obstore.exceptions import BaseError

from aslconvert.workers.errors import BlobNotFound, InfrastructureError
from aslconvert.workers.storage import staging
from aslconvert.workers.storage.base import (
    CHUNK,
    Admit,
    Blob,
    Source,
    VerifiedReader,
    checked_digest,
    checked_range,
    is_digest,
)

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class ObjectBlobs:
    """A `BlobStore` in an object store; what is under way is staged in a local folder, since its name is its hash."""

    def __init__(self, store: ObjectStore, staging_folder: Path) -> None:
        self._store = store
        self._under_way = staging_folder

    def put(self, source: Source, *, admit: Admit | None = None) -> Blob:
        """See `BlobStore.put`."""
        with staging.staged(self._under_way, source) as ready:
            if admit is not None:
                admit(ready.blob)
            # An upload is seen when its last part is: the store itself promotes atomically.
            with _coded(ready.blob.hash), ready.path.open("rb") as file:
                obstore.put(self._store, _key(ready.blob.hash), file)
            return ready.blob

    def adopt(self, path: Path, *, admit: Admit | None = None) -> Blob:
        """See `BlobStore.adopt`."""
        staging.hash_file(path)  # refuses what is no file
        with path.open("rb") as file:
            blob = self.put(file, admit=admit)
        path.unlink(missing_ok=True)
        return blob

    def open(self, digest: str) -> BinaryIO:
        """See `BlobStore.open`."""
        with _coded(digest):
            found = obstore.get(self._store, _key(digest))
            size = found.meta["size"]
        source = io.BufferedReader(_Stream(found, digest), CHUNK)
        return io.BufferedReader(VerifiedReader(source, digest, size), CHUNK)

    def read_range(self, digest: str, start: int, length: int) -> Iterator[bytes]:
        """See `BlobStore.read_range`."""
        start, end = checked_range(start, length, self.size(digest))
        return self._range(digest, start, end)

    def exists(self, digest: str) -> bool:
        """See `BlobStore.exists`."""
        try:
            self.size(digest)
        except BlobNotFound:
            return False
        return True

    def size(self, digest: str) -> int:
        """See `BlobStore.size`."""
        with _coded(digest):
            return obstore.head(self._store, _key(digest))["size"]

    def delete(self, digest: str) -> None:
        """See `BlobStore.delete`."""
        with contextlib.suppress(BlobNotFound), _coded(digest):
            obstore.delete(self._store, _key(digest))

    def stored(self) -> Iterator[Blob]:
        """See `BlobStore.stored`."""
        with _coded(""):
            for page in obstore.list(self._store):
                for found in page:
                    name = found["path"].rpartition("/")[2]
                    if is_digest(name) and found["path"] == _key(name):
                        yield Blob(name, found["size"])

    def sweep(self, *, older_than: float) -> int:
        """See `BlobStore.sweep`; unfinished uploads are for the bucket's own lifecycle rule."""
        return staging.sweep(self._under_way, older_than=older_than)

    def _range(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            with _coded(digest):
                length = min(CHUNK, end - start)
                chunk = bytes(obstore.get_range(self._store, _key(digest), start=start, length=length))
            start += len(chunk)
            yield chunk


class _Stream(io.RawIOBase):
    """A download as a file."""

    def __init__(self, found: Any, digest: str) -> None:
        self._chunks = iter(found.stream(min_chunk_size=CHUNK))
        self._digest = digest
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        while not self._rest:
            with _coded(self._digest):
                chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(bytes(chunk))
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def _key(digest: str) -> str:
    return f"{checked_digest(digest)[:2]}/{digest}"


@contextlib.contextmanager
def _coded(digest: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BlobNotFound(digest) from error
    except (BaseError, OSError) as error:
        told = f"The object store does not answer: {type(error).__name__}."
        raise InfrastructureError("storage_unavailable", told) from error
