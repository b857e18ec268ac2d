"""Unpacks a zip or tar of images into a temporary folder, trusting nothing that it says about itself."""

from __future__ import annotations

import errno
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from aslconvert.converter.errors import UsageError

MAX_ENTRIES = 200_000
MAX_TOTAL_BYTES = 16 << 30
_BLOCK = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether the name of ``path`` is that of a zip or tar."""
    name = path.name.lower()
    return name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"))


def unpack(path: Path, into: Path, *, max_entries: int = MAX_ENTRIES, max_total_bytes: int = MAX_TOTAL_BYTES) -> None:
    """Write the regular files of the archive ``path`` below ``into``.

    Bytes are counted as they come out, as the sizes in an archive's headers may lie.

    Raises:
        UsageError: ``data_archive``: an absolute path, ``..``, a link or device, too many entries, too many bytes, or
            not an archive at all.
    """
    left = max_total_bytes
    try:
        with closing(_entries(path)) as entries:
            for number, (name, source) in enumerate(entries, start=1):
                if number > max_entries:
                    raise UsageError("data_archive", f"{path.name} holds more than {max_entries} entries.")
                target = into.joinpath(*_safe_parts(path, name))
                if source is not None:
                    left -= _write(source, target, at_most=left)
                if left < 0:
                    raise UsageError("data_archive", f"{path.name} unpacks to over {max_total_bytes} bytes.")
    except (
        zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError,
        NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        raise UsageError("data_archive", f"{path.name} is damaged or not an archive: {error}") from error
    except OSError as error:
        # A place in the file that cannot be; what else an operating system refuses is no fault of the archive.
        if error.errno != errno.EINVAL:
            raise
        raise UsageError("data_archive", f"{path.name} is damaged: {error}") from error


def _write(source: Callable[[], IO[bytes]], target: Path, *, at_most: int) -> int:
    """Bytes written, which are more than ``at_most`` by one block at the most."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with source() as file, target.open("wb") as out:
        while written <= at_most and (block := file.read(_BLOCK)):
            out.write(block)
            written += len(block)
    return written


def _entries(path: Path) -> Generator[tuple[str, Callable[[], IO[bytes]] | None], None, None]:
    """(name, opener or None for a folder), in stored order; the archive is open until the generator is closed."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise UsageError("data_archive", f"{path.name} holds a link or device: {info.filename!r}.")
                yield info.filename, None if info.is_dir() else partial(archive.open, info)
        return
    with tarfile.open(path, mode="r:*") as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise UsageError("data_archive", f"{path.name} holds a link or device: {member.name!r}.")
            yield member.name, None if member.isdir() else partial(_open_member, tar, member)


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise tarfile.ExtractError(f"{member.name} has no content")
    return file


def _safe_parts(path: Path, name: str) -> tuple[str, ...]:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or ":" in pure.parts[0] or "\0" in name:
        raise UsageError("data_archive", f"{path.name} holds the unsafe path {name!r}.")
    return pure.parts
