"""The file that an interrupted healing goes on from: whole or refused, with the one before it kept."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.export.atomic import write_file

DIGEST_BYTES = hashlib.sha256().digest_size


def write_checkpoint(path: Path, record: dict[str, Any]) -> None:
    """Write ``record`` to ``path``; what stood there stays as the one before.

    Raises:
        InfrastructureError: ``disk_full`` or ``unwritable``.
    """
    buffer = io.BytesIO()
    torch.save(record, buffer)
    payload = buffer.getvalue()
    # A kill from here on leaves at least the one before under its own name.
    if path.exists():
        path.replace(before(path))
    write_file(path, hashlib.sha256(payload).digest() + payload)


def read_checkpoint(path: Path, *, on_note: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """The newest whole record, or None where none was ever written; ``on_note`` hears of one that is damaged.

    Raises:
        InfrastructureError: ``damaged_checkpoint``, when there are files and none is whole.
    """
    there = [file for file in (path, before(path)) if file.is_file()]
    for file in there:
        record = _whole(file)
        if record is not None:
            return record
        if on_note is not None:
            on_note(f"The checkpoint {file.name} is damaged.")
    if there:
        raise InfrastructureError(
            "damaged_checkpoint",
            f"No checkpoint of '{path.parent}' named {path.name} is whole.",
            hint=f"Check the disk; remove {path.name}* to heal this variant from its start.",
        )
    return None


def before(path: Path) -> Path:
    """Where the checkpoint before the one at ``path`` is kept."""
    return path.with_name(f"{path.name}.before")


def _whole(file: Path) -> dict[str, Any] | None:
    data = file.read_bytes()
    digest, payload = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    try:
        record = torch.load(io.BytesIO(payload), weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    return record if isinstance(record, dict) else None
