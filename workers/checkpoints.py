"""The state that an interrupted conversion leaves, as one file that another worker can go on from."""

from __future__ import annotations

import contextlib
import tarfile
from pathlib import Path

STATE = ".state"
MOST_FILES = 10_000


def stamp(out: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells one state of ``out`` from another: names, sizes and times of its files; empty where there is none."""
    found = []
    for path in _files(out / STATE):
        with contextlib.suppress(FileNotFoundError):
            told = path.stat()
            found.append((str(path), told.st_size, told.st_mtime_ns))
    return tuple(found)


def pack(out: Path, target: Path) -> bool:
    """Write the state of ``out`` to the tar file ``target``; False where there is none.

    The engine may be writing: every file of a state is replaced whole, and any set of them can be gone on from.
    """
    files = _files(out / STATE)
    if not files:
        return False
    with tarfile.open(target, "w") as archive:
        for path in files:
            # Open first: a name may be taken over by the next version at any moment.
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                entry = archive.gettarinfo(fileobj=file, arcname=str(path.relative_to(out)))
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
                if number >= MOST_FILES or not entry.isfile() or not entry.name.startswith(f"{STATE}/"):
                    raise ValueError(f"{entry.name!r} belongs to no state")
                archive.extract(entry, out, filter="data")
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error


def _files(folder: Path) -> list[Path]:
    """Whole files of a state; those that are being written have names that begin with a dot."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
