"""What a backup's ``manifest.json`` says; it is written last, so that a folder without one is no backup."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aslconvert.workers.errors import UserError
from aslconvert.workers.storage.base import Blob, checked_digest

NAME: Final = "manifest.json"
ROWS: Final = "rows"
BLOBS: Final = "blobs"
LISTED: Final = "blobs.jsonl"


class TableFile(BaseModel):
    """``rows/<table>.jsonl``: its rows and its SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    sha256: str


class Manifest(BaseModel):
    """A backup. ``blobs`` and ``blob_bytes`` count what lies in ``blobs/``, named by its SHA-256.

    ``listed`` is the SHA-256 of ``blobs.jsonl``, which names them all; ``secret`` a keyed hash that tells whether a
    deployment has the secret that the keys in here were made with, and not the secret itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    version: str
    revision: str
    created: datetime
    secret: str
    tables: dict[str, TableFile]
    blobs: int = Field(ge=0)
    blob_bytes: int = Field(ge=0)
    listed: str


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup whose lists and rows have the hashes that it says.

    Raises:
        UserError: ``no_backup``, ``backup_damaged``.
    """
    try:
        text = (folder / NAME).read_bytes()
    except FileNotFoundError as error:
        hint = "A backup that was interrupted has none: make it again."
        raise UserError("no_backup", f"There is no {NAME} in {folder}.", hint=hint) from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise UserError("backup_damaged", f"{NAME} cannot be read by this version.") from error
    expected = {f"{ROWS}/{name}.jsonl": table.sha256 for name, table in manifest.tables.items()}
    for name, sha256 in {**expected, LISTED: manifest.listed}.items():
        if _hash_of(folder / name) != sha256:
            raise UserError("backup_damaged", f"{name} does not have the hash that the manifest says.")
    return manifest


def blob_path(folder: Path, digest: str) -> Path:
    """Where a blob lies in a backup."""
    return folder / BLOBS / checked_digest(digest)[:2] / digest


def listed_blobs(folder: Path) -> Iterator[Blob]:
    """The blobs that a backup holds."""
    with (folder / LISTED).open("rb") as file:
        for line in file:
            told = json.loads(line)
            yield Blob(checked_digest(told["sha256"]), int(told["bytes"]))


def _hash_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
