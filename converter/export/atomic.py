"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from aslconvert.converter.errors import InfrastructureError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_file(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``; after a failure whatever stood there before still stands.

    Raises InfrastructureError("disk_full") or ("unwritable").
    """
    write_files(path.parent, {path.name: data})


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all of ``files`` into ``folder`` (made if missing): all are on disk before the first gets its name.

    Raises InfrastructureError("disk_full") or ("unwritable").
    """
    temporary: dict[str, Path] = {}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, data in files.items():
                handle, path = tempfile.mkstemp(prefix=f".{name}.", suffix=".partial", dir=folder)
                temporary[name] = Path(path)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                # mkstemp makes files that only their owner reads.
                temporary[name].chmod(0o644)
            for name in files:
                temporary.pop(name).replace(folder / name)
        finally:
            for left in temporary.values():
                left.unlink(missing_ok=True)
        _sync(folder)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A write below ``folder`` that fails raises InfrastructureError("disk_full") or ("unwritable")."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise InfrastructureError(
                "disk_full", f"The disk is full: '{folder}' cannot take the files.", hint="Free some space; run again."
            ) from error
        raise InfrastructureError("unwritable", f"'{folder}' cannot be written: {error.strerror}.") from error


def _sync(folder: Path) -> None:
    # Some filesystems cannot sync a folder; the files themselves are safe by then.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
