"""A consistent copy of a deployment in a folder, taken while it works."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from sqlalchemy import Row, delete, select

from aslconvert.service.admin import manifest, rows
from aslconvert.service.admin.tables import revision_of
from aslconvert.service.security.secrets import Secrets
from aslconvert.service.version import VERSION
from aslconvert.workers.database import Database, Transaction
from aslconvert.workers.errors import BlobNotFound, DamagedBlob, InfrastructureError, UserError
from aslconvert.workers.storage import Blobs, hold, release
from aslconvert.workers.storage.base import CHUNK, Blob
from aslconvert.workers.storage.tables import blob_refs, blobs

HOLDER: Final = "backup"
"""Who holds blobs while they are copied, so that nothing collects them meanwhile."""

STALE_SECONDS: Final = 7 * 86400
_TRIES: Final = 5


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What a backup holds."""

    folder: Path
    rows: int
    blobs: int
    blob_bytes: int


def back_up(
    database: Database, store: Blobs, hashes: Secrets, folder: Path, *, tell: Callable[[str], None] = lambda _: None
) -> Copied:
    """Copy all rows as of one moment, and the blobs that they hold, to a new folder.

    Uploads under way are left out: their bytes are not stored yet. ``tell`` hears what is done.

    Raises:
        UserError: ``folder_not_empty``.
        InfrastructureError: ``disk_full`` and whatever database and storage raise; ``blob_lost``, when records hold
            bytes that the store has not: `fsck` names all of them.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError("folder_not_empty", f"{folder} is not empty.", hint="Name a new folder.")
    (folder / manifest.ROWS).mkdir(parents=True)
    (folder / manifest.BLOBS).mkdir()
    with _held(database, folder) as (files, held, revision):
        tell(f"{sum(file.rows for file in files.values())} rows of revision {revision}")
        listed, total = hashlib.sha256(), 0
        with (folder / manifest.LISTED).open("wb") as names:
            for count, blob in enumerate(held, 1):
                _copy(store, blob, manifest.blob_path(folder, blob.hash))
                line = json.dumps({"sha256": blob.hash, "bytes": blob.size}).encode() + b"\n"
                names.write(line)
                listed.update(line)
                total += blob.size
                if count % 100 == 0:
                    tell(f"{count} of {len(held)} blobs")
            _sync(names)
    whole = manifest.Manifest(
        version=VERSION,
        revision=revision,
        created=datetime.now(UTC),
        secret=fingerprint(hashes),
        tables={name: manifest.TableFile(rows=file.rows, sha256=file.sha256) for name, file in files.items()},
        blobs=len(held),
        blob_bytes=total,
        listed=listed.hexdigest(),
    )
    _promote(folder / manifest.NAME, whole.model_dump_json(indent=2).encode())
    return Copied(folder=folder, rows=sum(file.rows for file in files.values()), blobs=len(held), blob_bytes=total)


def fingerprint(hashes: Secrets) -> str:
    """The same for the same secret, and no help in finding it."""
    return hashes.hexed("backup")


def drop_stale_holds(at: Transaction) -> int:
    """Let go of what backups hold that died more than a week ago; how many."""
    holders = at.connection.execute(
        select(blob_refs.c.holder_id).where(blob_refs.c.holder_kind == HOLDER).distinct()
    ).scalars()
    stale = [holder for holder in holders if float(holder.partition("-")[0]) < time.time() - STALE_SECONDS]
    for holder in stale:
        release(at, HOLDER, holder)
    return len(stale)


@contextmanager
def _held(database: Database, folder: Path) -> Iterator[tuple[Mapping[str, rows.Dumped], list[Blob], str]]:
    """The rows as of one moment, written down, with their blobs safe from collection until the end."""
    holder = f"{int(time.time())}-{secrets.token_hex(8)}"
    try:
        for _ in range(_TRIES):
            files, held, revision = database.read(lambda at: _dump(at, folder))
            try:
                wanted = [blob.hash for blob in held]
                database.write(lambda at, wanted=wanted: hold(at, HOLDER, holder, wanted))  # type: ignore[misc]
                break
            except BlobNotFound:
                # Its job was deleted and the blob collected between the two transactions: look again.
                continue
        else:
            raise InfrastructureError("backup_overtaken", "Blobs are deleted faster than they can be held.")
        yield files, held, revision
    finally:
        mine = (blob_refs.c.holder_kind == HOLDER) & (blob_refs.c.holder_id == holder)
        database.write(lambda at: at.connection.execute(delete(blob_refs).where(mine)))


def _dump(at: Transaction, folder: Path) -> tuple[dict[str, rows.Dumped], list[Blob], str]:
    rows.one_view(at)
    kept = select(blob_refs.c.hash).where(blob_refs.c.holder_kind != HOLDER)
    found = at.connection.execute(select(blobs.c.hash, blobs.c.size).where(blobs.c.hash.in_(kept)))
    held = [Blob(row.hash, row.size) for row in found.all()]
    names = {blob.hash for blob in held}

    def wanted(row: Row[Any]) -> bool:
        fields = row._mapping
        if "holder_kind" in fields:
            return bool(fields["holder_kind"] != HOLDER)
        # Bytes that nobody holds yet may be gone before they are copied; their upload is repeated.
        return "touched_at" not in fields or fields["hash"] in names

    files = {
        table.name: rows.dump(at, table, folder / manifest.ROWS / f"{table.name}.jsonl", wanted=wanted)
        for table in rows.tables()
    }
    return files, held, revision_of(at) or ""


def _copy(store: Blobs, blob: Blob, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    try:
        # The reader itself refuses bytes that do not have the hash.
        with store.store.open(blob.hash) as source, path.open("wb") as target:
            while chunk := source.read(CHUNK):
                target.write(chunk)
            _sync(target)
    except (BlobNotFound, DamagedBlob) as error:
        hint = "`aslconvert admin fsck` names all that is lost."
        raise InfrastructureError("blob_lost", f"Blob {blob.hash} is gone or damaged.", hint=hint) from error


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _promote(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}")
    with beside.open("wb") as file:
        file.write(content)
        _sync(file)
    os.replace(beside, path)
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
