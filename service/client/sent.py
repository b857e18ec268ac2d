"""Remembers uploads under way in small files, so that another process goes on where one ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 1 << 20

CACHE_VARIABLE = "ASLCONVERT_CACHE"
"""The same folder as of measured latencies: what is in it can be lost."""


@dataclass(frozen=True)
class Local:
    """A file as it was when its sending began."""

    path: Path
    bytes: int
    modified_ns: int

    def unchanged(self) -> bool:
        """Whether the file still is what it was, by its size and time."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.bytes, self.modified_ns)


def glance_at(path: Path) -> Local:
    """The file's size and time. Raises OSError also where it cannot be read."""
    path = path.resolve()
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
    return Local(path, found.st_size, found.st_mtime_ns)


def hash_of(path: Path) -> str:
    """The SHA-256 of the file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Sent:
    """The folder of those files; losing one costs only that bytes are sent again."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_folder() / "uploads"

    def recall(self, *of: str, file: Local) -> str | None:
        """The upload's id that `remember` was given for the same file and the same words."""
        try:
            found = json.loads(self._path(of, file).read_text())
            return str(found["upload"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, *of: str, file: Local, upload: str) -> None:
        """Keep the upload's id; a folder that cannot be written is no reason to stop."""
        told: dict[str, Any] = {"upload": upload, "path": str(file.path), "bytes": file.bytes}
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made for their owner alone by mkstemp; a name that is never half a file.
            handle, name = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(handle, "w") as out:
                json.dump(told, out)
            os.replace(name, self._path(of, file))

    def forget(self, *of: str, file: Local) -> None:
        """The upload is over."""
        with contextlib.suppress(OSError):
            self._path(of, file).unlink()

    def _path(self, of: tuple[str, ...], file: Local) -> Path:
        words = [*of, str(file.path), str(file.bytes), str(file.modified_ns)]
        return self._folder / f"{hashlib.sha256(json.dumps(words).encode()).hexdigest()}.json"


def cache_folder() -> Path:
    """``ASLCONVERT_CACHE``, else ``aslconvert`` in the user's cache folder."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "aslconvert"
