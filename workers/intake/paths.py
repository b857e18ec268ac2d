"""The names of entries: what may stand in an archive, and where it is unpacked."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from aslconvert.workers.intake.refusal import Refused, shown

MOST_CHARS, MOST_PARTS = 1_000, 32
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def entry_name(raw: bytes) -> str:
    """``raw`` as text. Raises Refused (``archive_path``)."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("archive_path", "The name is not UTF-8.", entry=shown(raw)) from error


def safe_parts(name: str) -> tuple[str, ...]:
    """The parts of a relative path that stays where it is put. Raises Refused (``archive_path``)."""
    parts = name.rstrip("/").split("/")
    bad = (
        not name
        or len(name) > MOST_CHARS
        or len(parts) > MOST_PARTS
        or "\\" in name
        or any(unicodedata.category(char) in _UNSAFE for char in name)
        or PurePosixPath(name).is_absolute()
        or any(part in ("", ".", "..") or part != part.strip() or len(part.encode()) > 255 for part in parts)
        or ":" in parts[0]
    )
    if bad:
        raise Refused("archive_path", "The name is no plain relative path.", entry=shown(name))
    return tuple(parts)


def folded(name: str) -> str:
    """What two names have in common that some file system takes for the same."""
    return unicodedata.normalize("NFKC", name).casefold().rstrip("/")
