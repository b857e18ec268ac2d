"""Files under way: written beside their destination, hashed while they are written, gone if anything fails."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.storage.base import CHUNK, Blob, Source, chunks_of

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Staged:
    """A file with its bytes on the disk, that may be renamed."""

    path: Path
    blob: Blob


@contextlib.contextmanager
def coded() -> Iterator[None]:
    """Turn what the operating system says into errors with codes."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InfrastructureError("disk_full", "No space is left for blobs.", hint="Free some space.") from error
        told = f"Blobs cannot be stored or read: {error.strerror}."
        raise InfrastructureError("storage_unavailable", told) from error


@contextlib.contextmanager
def staged(folder: Path, source: Source) -> Iterator[Staged]:
    """The source's bytes in a new file of the folder, removed at the end if nobody has renamed it."""
    path = folder / f"{secrets.token_hex(16)}.part"
    digest, size = hashlib.sha256(), 0
    try:
        with coded():
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb", buffering=0) as file:
            # The source may fail as well, and what it raises is not about this disk.
            for chunk in chunks_of(source):
                digest.update(chunk)
                size += len(chunk)
                with coded():
                    _write(file.fileno(), chunk)
            with coded():
                os.fsync(file.fileno())
        yield Staged(path, Blob(digest.hexdigest(), size))
    finally:
        # Where the file cannot be removed it could not be made either, and that is what is being told.
        with contextlib.suppress(OSError):
            path.unlink()


def sweep(folder: Path, *, older_than: float) -> int:
    """Remove files under way that nobody has written to for so many seconds; how many."""
    removed = 0
    with coded():
        for path in folder.glob("*.part"):
            with contextlib.suppress(FileNotFoundError):
                # Both are the file system's wall clock: setting it forward costs a writer its try, and no blob.
                if time.time() - path.stat().st_mtime > older_than:
                    path.unlink()
                    removed += 1
    return removed


def hash_file(path: Path) -> tuple[Blob, os.stat_result]:
    """Hash a regular file and bring its bytes to the disk.

    Raises:
        UserError: ``not_a_file``, for a link, a folder or a device.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOENT, errno.ENXIO}:
            raise UserError("not_a_file", f"{path.name} is no regular file.") from error
        with coded():
            raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise UserError("not_a_file", f"{path.name} is no regular file.")
    with open(handle, "rb", buffering=0) as file, coded():
        digest, size = hashlib.sha256(), 0
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
        os.fsync(file.fileno())
    return Blob(digest.hexdigest(), size), found


def _write(handle: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(handle, view) :]
