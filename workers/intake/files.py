"""Opening what comes in and replacing what goes out; and what a rebuild tells."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from aslconvert.workers.intake.refusal import Refused


@dataclass(frozen=True)
class Rebuilt:
    """What was written: ``size`` in bytes; ``operators`` with how often each is called (of weights alone, none)."""

    kind: str
    path: Path
    size: int
    tensors: int
    operators: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def opened(source: Path, *, most: int) -> Iterator[BinaryIO]:
    """A regular file of at most ``most`` bytes. Raises Refused (``file_unreadable``, ``file_too_large``)."""
    if not source.is_file():
        raise Refused("file_unreadable", "There is no regular file.")
    try:
        file = source.open("rb")
    except OSError as error:
        raise Refused("file_unreadable", f"It cannot be read: {error.strerror}.") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise Refused("file_too_large", f"{size} bytes, {most} are the most.")
        yield file


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A file beside ``target`` that takes its place when it is whole, and goes when it is not."""
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("w+b") as file:
            yield file
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
