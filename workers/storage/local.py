"""Blobs in a local folder: ``ab/ab12...`` below it, written beside, renamed when whole."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

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


class LocalBlobs:
    """A `BlobStore` in a folder, which is made if need be; several processes may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._under_way = root / "tmp"

    def put(self, source: Source, *, admit: Admit | None = None) -> Blob:
        """See `BlobStore.put`."""
        with staging.staged(self._under_way, source) as ready:
            return self._promote(ready.path, ready.blob, admit)

    def adopt(self, path: Path, *, admit: Admit | None = None) -> Blob:
        """See `BlobStore.adopt`; a file of the same file system is renamed, any other copied."""
        blob, found = staging.hash_file(path)
        with staging.coded():
            self._under_way.mkdir(parents=True, exist_ok=True)
            # Whoever has another name of the file could still change it.
            movable = found.st_dev == self._under_way.stat().st_dev and found.st_nlink == 1
        if movable:
            try:
                return self._promote(path, blob, admit)
            except InfrastructureError as error:
                # Two mounts of one file system, as volumes of containers are, look like one place and are not.
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EXDEV:
                    raise
        with staging.coded():
            file = path.open("rb")
        with file:
            blob = self.put(file, admit=admit)
        with staging.coded():
            path.unlink(missing_ok=True)
        return blob

    def open(self, digest: str) -> BinaryIO:
        """See `BlobStore.open`."""
        file = self._open(digest)
        size = os.fstat(file.fileno()).st_size
        return io.BufferedReader(VerifiedReader(cast(BinaryIO, file), digest, size), CHUNK)

    def read_range(self, digest: str, start: int, length: int) -> Iterator[bytes]:
        """See `BlobStore.read_range`."""
        # Checked here and not at the first chunk, when a caller may have sent the head of its answer.
        start, end = checked_range(start, length, self.size(digest))
        return self._range(digest, start, end)

    def exists(self, digest: str) -> bool:
        """See `BlobStore.exists`."""
        return self._path(digest).is_file()

    def size(self, digest: str) -> int:
        """See `BlobStore.size`."""
        try:
            with staging.coded():
                return self._path(digest).stat().st_size
        except InfrastructureError as error:
            raise _missing(error, digest) from error

    def delete(self, digest: str) -> None:
        """See `BlobStore.delete`."""
        with staging.coded():
            self._path(digest).unlink(missing_ok=True)

    def stored(self) -> Iterator[Blob]:
        """See `BlobStore.stored`; files of other names are not ours."""
        with staging.coded():
            for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
                if is_digest(path.name) and path.parent.name == path.name[:2]:
                    with contextlib.suppress(FileNotFoundError):
                        yield Blob(path.name, path.stat().st_size)

    def sweep(self, *, older_than: float) -> int:
        """See `BlobStore.sweep`."""
        return staging.sweep(self._under_way, older_than=older_than)

    def _path(self, digest: str) -> Path:
        return self.root / checked_digest(digest)[:2] / digest

    def _open(self, digest: str) -> io.FileIO:
        try:
            with staging.coded():
                return self._path(digest).open("rb", buffering=0)
        except InfrastructureError as error:
            raise _missing(error, digest) from error

    def _range(self, digest: str, start: int, end: int) -> Iterator[bytes]:
        with self._open(digest) as file, staging.coded():
            file.seek(start)
            while start < end and (chunk := file.read(min(CHUNK, end - start))):
                start += len(chunk)
                yield chunk

    def _promote(self, path: Path, blob: Blob, admit: Admit | None) -> Blob:
        if admit is not None:
            admit(blob)
        target = self._path(blob.hash)
        with staging.coded():
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                _sync_folder(self.root)
            # Also over a blob that is there: the same bytes again, which mends one that was damaged.
            os.replace(path, target)
            # What has its hash is never written again. Not before: a file that stays is still its owner's to write.
            target.chmod(0o400)
            _sync_folder(target.parent)
        return blob


def _missing(error: Exception, digest: str) -> Exception:
    return BlobNotFound(digest) if isinstance(error.__cause__, FileNotFoundError) else error


def _sync_folder(folder: Path) -> None:
    # A rename is on the disk only when its folder is.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
