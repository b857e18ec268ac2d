"""Files of a folder that somebody else could write to: plain ones, reached without following any link."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotPlain(Exception):
    """There is a link, a device, a pipe, or nothing at all."""


@contextlib.contextmanager
def open_plain(root: Path, name: str) -> Iterator[BinaryIO]:
    """The regular file ``name`` below ``root``, whose own parents are trusted.

    Raises:
        NotPlain: it is none, some folder on the way is a link, or the name leads elsewhere.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/"):
        raise NotPlain(name)
    opened: list[int] = []
    try:
        try:
            opened.append(os.open(root, _FOLDER))
            for part in parts[:-1]:
                opened.append(os.open(part, _FOLDER, dir_fd=opened[-1]))
            handle = os.open(parts[-1], _FILE, dir_fd=opened[-1])
        except (OSError, ValueError) as error:
            raise NotPlain(name) from error
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise NotPlain(name)
            yield file
    finally:
        for folder in opened:
            os.close(folder)


def read_plain(root: Path, name: str, *, most: int) -> bytes:
    """Its bytes. Raises NotPlain, for one of more than ``most`` bytes too."""
    with open_plain(root, name) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise NotPlain(f"{name} has more than {most} bytes")
    return data


def plain_names(root: Path, *, most: int) -> list[str]:
    """At most ``most`` regular files below ``root``, without going through links; none where it is no folder."""
    if root.is_symlink() or not root.is_dir():
        return []
    found: list[str] = []
    waiting = [root]
    while waiting and len(found) < most:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    found.append(str(Path(entry.path).relative_to(root)))
    return sorted(found[:most])


def remove_tree(folder: Path) -> None:
    """Remove whatever a job has left, however deep, and whatever rights it took away; what resists stays.

    By the system's own tools, which walk without recursion.
    """
    if not os.path.lexists(folder):
        return
    with contextlib.suppress(OSError):
        if not folder.is_symlink():
            subprocess.run(["chmod", "-R", "u+rwX", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["rm", "-rf", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)
