"""What an interrupted `convert --server` leaves in its folder, so that `--resume` goes on with the same job."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aslconvert.cli.remote.packing import listed
from aslconvert.converter.errors import UsageError
from aslconvert.converter.export.atomic import write_file
from aslconvert.service.client.sent import hash_of

STATE = ".aslconvert-job.json"
"""In the folder of a conversion while its job is under way."""


@dataclass(frozen=True)
class Left:
    """What was asked of which server, under which Idempotency-Key; ``job`` is None until the server has told its id."""

    server: str
    asked: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    job: str | None = None


def asked_of(model: str, data: str, options: Mapping[str, Any]) -> str:
    """A digest of everything that decides a result: the bytes of model and data, and the options."""
    words = [_content(model), _content(data), dict(sorted(options.items()))]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def leave(out: Path, left: Left) -> None:
    """Write it down, before anything is asked of the server. Raises `write_file`'s errors."""
    write_file(out / STATE, json.dumps(dataclasses.asdict(left)).encode())


def found(out: Path, *, server: str, asked: str) -> Left:
    """What was left, of the same request to the same server.

    Raises:
        UsageError: ``nothing_to_resume``, ``damaged_state``, ``resume_mismatch``.
    """
    try:
        left = Left(**json.loads((out / STATE).read_text()))
    except FileNotFoundError:
        raise UsageError(
            "nothing_to_resume", f"'{out}' holds no job that was interrupted.", hint="Run without --resume."
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError("damaged_state", f"'{out / STATE}' cannot be read.", hint="Run without --resume.") from error
    if left.server != server:
        raise UsageError(
            "resume_mismatch", f"The job in '{out}' runs at {left.server}.", hint=f"--server {left.server}"
        )
    if left.asked != asked:
        raise UsageError(
            "resume_mismatch",
            f"The interrupted run in '{out}' had another model, other data or other options.",
            hint="Give the same ones, or leave --resume away to start over.",
        )
    return left


def forget(out: Path) -> None:
    """It has ended; as after a run here that was refused, no folder stays where nothing is in it."""
    (out / STATE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        out.rmdir()


def _content(spec: str) -> list[str]:
    """What stands for a model or data: the hash of a file, what is in a folder, the words for code."""
    path = Path(spec)
    if path.is_dir():
        return [listed(path)]
    if path.is_file():
        return [hash_of(path)]
    named = re.fullmatch(r"arch:[^@]+@(.+)", spec) or re.fullmatch(r"(.+):\w+", spec)
    beside = None if named is None else Path(named[1])
    return [spec, hash_of(beside)] if beside is not None and beside.is_file() else [spec]
