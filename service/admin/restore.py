"""A backup brought back into an empty deployment, of SQLite or PostgreSQL, whichever it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aslconvert.service.admin import manifest, rows
from aslconvert.service.admin.backup import fingerprint
from aslconvert.service.security.secrets import Secrets
from aslconvert.service.uploads.records import UploadState
from aslconvert.workers.database import Database, Transaction, migrate
from aslconvert.workers.database.migrate import revisions
from aslconvert.workers.errors import UserError
from aslconvert.workers.storage import BlobStore
from aslconvert.workers.storage.base import Blob

_UNDER_WAY: Final = (UploadState.RECEIVING, UploadState.VETTING)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What was brought back; ``keys_work`` says whether the API keys of the backup fit this deployment's secret."""

    rows: int
    blobs: int
    blob_bytes: int
    keys_work: bool


def restore(
    url: str,
    store: BlobStore,
    hashes: Secrets,
    folder: Path,
    *,
    other_secret: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Restored:
    """Check every hash of a backup, store its blobs, then all rows in one transaction, at this version's tables.

    Blobs come first: if this is interrupted the database is still empty, and the same command begins again. Jobs that
    were at work go on when a worker finds that nobody holds them; uploads that were under way are expired.

    Raises:
        UserError: ``no_backup``, ``backup_damaged``, ``backup_newer``, ``not_empty``, ``other_secret`` unless that was
            asked for.
        InfrastructureError: whatever database and storage raise.
    """
    told = manifest.read_manifest(folder)
    if told.revision not in revisions():
        newer = f"The backup is of revision {told.revision}, made by version {told.version}."
        raise UserError("backup_newer", newer, hint="Restore it with that version or a later one.")
    keys_work = told.secret == fingerprint(hashes)
    if not keys_work and not other_secret:
        hint = "Give this deployment the secret of then; or say --other-secret, and make new keys."
        raise UserError("other_secret", "The API keys in the backup were made with another secret.", hint=hint)
    database = Database(url)
    try:
        # The tables as they were, so that rows of an older version find their columns; what came since follows.
        if not database.read(rows.is_empty):
            raise UserError("not_empty", "The database has rows.", hint="Restore into a new, empty deployment.")
        for count, blob in enumerate(manifest.listed_blobs(folder), 1):
            _store(store, blob, manifest.blob_path(folder, blob.hash))
            if count % 100 == 0:
                tell(f"{count} of {told.blobs} blobs")
        migrate(url, revision=told.revision)
        count = database.write(lambda at: _load(at, told, folder))
        migrate(url)
    finally:
        database.close()
    return Restored(rows=count, blobs=told.blobs, blob_bytes=told.blob_bytes, keys_work=keys_work)


def _store(store: BlobStore, blob: Blob, path: Path) -> None:
    def admit(found: Blob) -> None:
        if found != blob:
            raise UserError("backup_damaged", f"Blob {blob.hash} does not have the hash that it is named by.")

    try:
        with path.open("rb") as file:
            store.put(file, admit=admit)
    except FileNotFoundError as error:
        raise UserError("backup_damaged", f"Blob {blob.hash} is missing in the backup.") from error


def _load(at: Transaction, told: manifest.Manifest, folder: Path) -> int:
    if not rows.is_empty(at):
        raise UserError("not_empty", "Somebody wrote to the database meanwhile.", hint="Stop the service before.")
    count = 0
    for table in rows.tables():
        if table.name in told.tables:
            mended = _expired if table.name == "uploads" else _as_it_is
            count += rows.load(at, table, folder / manifest.ROWS / f"{table.name}.jsonl", mended=mended)
    return count


def _as_it_is(row: dict[str, Any]) -> dict[str, Any]:
    return row


def _expired(row: dict[str, Any]) -> dict[str, Any]:
    """The bytes of an upload under way are in no backup, and nobody would ever end it."""
    return {**row, "state": UploadState.EXPIRED} if row.get("state") in _UNDER_WAY else row
