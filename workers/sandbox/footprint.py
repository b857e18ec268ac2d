"""What all files of a job's folder hold together: the kernel bounds each of them alone, and not how many there are."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from aslconvert.workers.sandbox.limits import GIB, Limits

LOOK_SECONDS = 1.0
SHARE = 0.05
"""Of the supervisor's time that looking may take: a folder with many files is looked into less often."""

MOST_DEPTH = 64
"""Folders within folders; no engine of ours makes more than a few, and each takes an open file to look into."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Beyond(Exception):
    """Its text says which limit is passed."""


class Footprint:
    """Looks into ``folder`` of a job at work, whose files come and go meanwhile; links are not followed.

    A file counts as its length or as what it takes on the disk, whichever is more, under each of its names. Files that
    were deleted and are still open are not seen.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder, limits
        self._next = time.monotonic() + LOOK_SECONDS
        self._bytes = self._files = 0

    def excess(self) -> str:
        """Which limit is passed, as a sentence; empty where none is, or where it is too early to look again."""
        begun = time.monotonic()
        if begun < self._next or (self._limits.folder_bytes is None and self._limits.folder_files is None):
            return ""
        self._bytes = self._files = 0
        try:
            self._add(str(self._folder), None, 0)
        except _Beyond as beyond:
            return str(beyond)
        finally:
            ended = time.monotonic()
            self._next = ended + max(LOOK_SECONDS, (ended - begun) / SHARE)
        return ""

    def _add(self, name: str, parent: int | None, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise _Beyond(f"The job's folders lie more than {MOST_DEPTH} deep in each other.")
        try:
            handle = os.open(name, _FOLDER, dir_fd=parent)
        except PermissionError:
            raise _Beyond("The job has made a folder that cannot be looked into.") from None
        except OSError:
            return  # removed, or replaced by something else, since its parent was read
        try:
            with os.scandir(handle) as entries:
                for entry in entries:
                    self._count(entry)
                    if entry.is_dir(follow_symlinks=False):
                        self._add(entry.name, handle, depth + 1)
        finally:
            os.close(handle)

    def _count(self, entry: os.DirEntry[str]) -> None:
        try:
            told = entry.stat(follow_symlinks=False)
        except PermissionError:
            raise _Beyond("The job has made a folder that cannot be looked into.") from None
        except OSError:
            return
        taken = told.st_blocks * 512
        self._bytes += max(taken, told.st_size) if stat.S_ISREG(told.st_mode) else taken
        self._files += 1
        most_bytes, most_files = self._limits.folder_bytes, self._limits.folder_files
        if most_bytes is not None and self._bytes > most_bytes:
            raise _Beyond(f"The job's files take more than {most_bytes / GIB:.4g} GiB together.")
        if most_files is not None and self._files > most_files:
            raise _Beyond(f"The job has more than {most_files:,} files.")
