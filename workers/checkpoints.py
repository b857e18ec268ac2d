"""The state that an interrupted conversion leaves, as one file that another worker can go on from."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from pathlib import Path

from aslconvert.workers.plain import NotPlain, open_plain, plain_names

STATE = ".state"
MOST_FILES = 10_000
MOST_BYTES = 8 << 30


def stamp(out: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells one state of ``out`` from another: names, sizes and times of its files; empty where there is none."""
    found = []
    for name in _names(out):
        with contextlib.suppress(NotPlain), open_plain(out, name) as file:
            told = os.fstat(file.fileno())
            found.append((name, told.st_size, told.st_mtime_ns))
    return tuple(found)


def pack(out: Path, target: Path) -> bool:
    """Write the state of ``out`` to the new tar file ``target``; False where there is none, or more than is kept.

    The engine may be writing: every file of a state is replaced whole, and any set of them can be gone on from.
    """
    names = _names(out)
    if not names:
        return False
    total = 0
    with tarfile.open(target, "x") as archive:
        for name in names:
            # A name may be taken over by the next version at any moment: what is open is packed.
            with contextlib.suppress(NotPlain), open_plain(out, name) as file:
                entry = archive.gettarinfo(fileobj=file, arcname=name)
                total += entry.size
                if total > MOST_BYTES:
                    return False
                archive.addfile(entry, file)
    return True


def unpack(source: Path, out: Path) -> None:
    """Lay the state of a tar file below ``out``.

    Raises:
        ValueError: it is none, or has files where none belong.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(source, "r:") as archive:
            for number, entry in enumerate(archive):
                parts = entry.name.split("/")
                belongs = entry.isfile() and parts[0] == STATE and len(parts) > 1 and not {"", ".", ".."} & set(parts)
                if number >= MOST_FILES or not belongs:
                    raise ValueError(f"{entry.name!r} belongs to no state")
                _lay(archive, entry, out)
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error


def _lay(archive: tarfile.TarFile, entry: tarfile.TarInfo, out: Path) -> None:
    """Write one file. By hand: tarfile's own way of it asks for a filter, which Python 3.11.2 of Debian 12 has not."""
    target = out / entry.name
    target.parent.mkdir(parents=True, exist_ok=True)
    read = archive.extractfile(entry)
    if read is None:
        raise ValueError(f"{entry.name!r} belongs to no state")
    with read, target.open("xb") as file:
        shutil.copyfileobj(read, file)
    os.utime(target, (entry.mtime, entry.mtime))


def _names(out: Path) -> list[str]:
    """Whole files of a state below ``out``; those that are being written have names that begin with a dot."""
    if out.is_symlink():
        return []
    names = plain_names(out / STATE, most=MOST_FILES)
    return [f"{STATE}/{name}" for name in names if not Path(name).name.startswith(".")]
