"""Keeps standard output for the answer: one JSON document or one readable page; all else goes to standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    """One line for people, on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def answer_stream() -> Iterator[TextIO]:
    """The real standard output, while everything that others print, native libraries too, goes to standard error."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # standard output was closed by the caller: there is nothing to keep apart
        yield sys.stdout
        return
    os.dup2(2, 1)
    stream = os.fdopen(kept, "w", encoding="utf-8")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield stream
            stream.flush()
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        stream.close()


def write_json(value: object, stream: TextIO) -> None:
    """``value`` as one JSON document; models, dataclasses, mappings and sequences are taken."""
    stream.write(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    stream.flush()


def plain(value: Any) -> Any:
    """``value`` in JSON's own types; a number JSON cannot hold becomes null."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def page(stream: TextIO) -> Console:
    """A rich console that writes tables to ``stream``; a pipe gets them at a fixed width, unwrapped and uncoloured."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else 160, highlight=False)
