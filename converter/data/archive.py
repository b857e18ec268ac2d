"""Unpacks a zip or tar of images into a temporary folder, trusting nothing that it says about itself."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator
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
    total = 0
    try:
        for number, (name, source) in enumerate(_entries(path), start=1):
            if number > max_entries:
                raise UsageError("data_archive", f"{path.name} holds more than {max_entries} entries.")
            if source is None:
                continue
            target = into.joinpath(*_safe_parts(path, name))
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as out:
                while block := source.read(_BLOCK):
                    total += len(block)
                    if total > max_total_bytes:
                        raise UsageError("data_archive", f"{path.name} unpacks to over {max_total_bytes} bytes.")
                    out.write(block)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError) as error:
        raise UsageError("data_archive", f"{path.name} is damaged or not an archive: {error}") from error


def _entries(path: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, open file or None for a folder), in stored order."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                mode = info.external_attr >> 16
                if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise UsageError("data_archive", f"{path.name} holds a link or device: {info.filename!r}.")
                yield info.filename, None if info.is_dir() else archive.open(info)
        return
    with tarfile.open(path, mode="r:*") as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise UsageError("data_archive", f"{path.name} holds a link or device: {member.name!r}.")
            yield member.name, None if member.isdir() else tar.extractfile(member)


def _safe_parts(path: Path, name: str) -> tuple[str, ...]:
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or ":" in pure.parts[0] or "\0" in name:
        raise UsageError("data_archive", f"{path.name} holds the unsafe path {name!r}.")
    return pure.parts
