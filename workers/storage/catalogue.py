"""Blobs with their references: what is put is entered first, what nobody holds is collected.

A put and a collection of the same hash must not cross. A put enters its row before its bytes can be seen, which makes
the row young; a collection deletes only old rows that nobody holds, and the bytes while it still has the row's lock. So
a put either comes first and is seen to be young, or waits for the lock and then stores its bytes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, case, delete, exists, or_, select

from aslconvert.workers.database import Database, Transaction
from aslconvert.workers.database.base import insert_into
from aslconvert.workers.errors import UserError
from aslconvert.workers.storage.base import Admit, Blob, BlobStore, Source
from aslconvert.workers.storage.references import hold, release
from aslconvert.workers.storage.tables import blob_refs, blobs

GRACE: Final = 3600.0  # seconds: far more than any upload waits between its end and the job that names it
DAY: Final = 86400.0


class Blobs:
    """A blob store together with the database that knows who holds what.

    Methods raise what the store and the database raise: InfrastructureError with ``disk_full``,
    ``storage_unavailable`` or ``database_unavailable``.
    """

    def __init__(self, database: Database, store: BlobStore) -> None:
        self.database = database
        self.store = store

    def put(self, source: Source, *, expires: datetime | None = None, admit: Admit | None = None) -> Blob:
        """Store a stream, safe from collection for the grace period and until ``expires``; then somebody must hold it.

        ``admit`` may refuse the blob by raising, once hash and size are known.
        """
        return self.store.put(source, admit=self._entering(expires, admit))

    def adopt(self, path: Path, *, expires: datetime | None = None, admit: Admit | None = None) -> Blob:
        """Store a local file and take it away, as `put` does. Raises UserError ``not_a_file``."""
        return self.store.adopt(path, admit=self._entering(expires, admit))

    def hold(self, holder_kind: str, holder_id: str, hashes: Sequence[str]) -> None:
        """Hold blobs for somebody. Raises BlobNotFound."""
        self.database.write(lambda at: hold(at, holder_kind, holder_id, hashes))

    def release(self, holder_kind: str, holder_id: str) -> None:
        """Let go of all that somebody held."""
        self.database.write(lambda at: release(at, holder_kind, holder_id))

    def collect(self, *, grace: float = GRACE, limit: int = 1000) -> list[str]:
        """Delete blobs that nobody holds and that were put more than ``grace`` seconds ago; their hashes.

        Raises:
            UserError: ``bad_grace`` unless it is positive: a put needs some time to be held.
        """
        if grace <= 0:
            raise UserError("bad_grace", "The grace period is a positive number of seconds.")

        def candidates(at: Transaction) -> Sequence[str]:
            return list(at.connection.execute(select(blobs.c.hash).where(_unheld(at, grace)).limit(limit)).scalars())

        found = self.database.read(candidates)
        return [digest for digest in found if self.database.write(partial(self._drop, digest=digest, grace=grace))]

    def sweep(self, *, older_than: float = DAY) -> int:
        """Remove files that dead writers left behind; how many."""
        return self.store.sweep(older_than=older_than)

    def _entering(self, expires: datetime | None, admit: Admit | None) -> Admit:
        def enter(blob: Blob) -> None:
            if admit is not None:
                admit(blob)
            self.database.write(lambda at: _enter(at, blob, expires))

        return enter

    def _drop(self, at: Transaction, *, digest: str, grace: float) -> bool:
        # Two statements: only one that starts after the lock was had sees what the last holder of it committed.
        at.connection.execute(select(blobs.c.hash).where(blobs.c.hash == digest).with_for_update())
        dropped = at.connection.execute(delete(blobs).where(blobs.c.hash == digest, _unheld(at, grace)))
        if dropped.rowcount == 0:
            return False
        # Before the commit: if this process dies here, the row is still there and the next collection repeats it.
        self.store.delete(digest)
        return True


def _unheld(at: Transaction, grace: float) -> ColumnElement[bool]:
    now, epoch = at.now, at.epoch
    same_boot = (blobs.c.touched_epoch == epoch) & (blobs.c.touched_at <= now - grace)
    # The clock of another boot cannot be compared, but the blob is at least as old as this boot, which began at 0.
    earlier_boot = (blobs.c.touched_epoch != epoch) & (now > grace)
    held = exists().where(blob_refs.c.hash == blobs.c.hash)
    return ~held & or_(same_boot, earlier_boot) & or_(blobs.c.expires.is_(None), blobs.c.expires <= at.wall)


def _enter(at: Transaction, blob: Blob, expires: datetime | None) -> None:
    values: dict[str, Any] = {
        "hash": blob.hash,
        "size": blob.size,
        "created": at.wall,
        "expires": expires,
        "touched_at": at.now,
        "touched_epoch": at.epoch,
    }
    statement = insert_into(at.connection, blobs).values(values)
    new = statement.excluded
    later = or_(blobs.c.expires.is_(None), blobs.c.expires < new.expires) & new.expires.is_not(None)
    at.connection.execute(
        statement.on_conflict_do_update(
            index_elements=[blobs.c.hash],
            set_={
                "touched_at": new.touched_at,
                "touched_epoch": new.touched_epoch,
                "expires": case((later, new.expires), else_=blobs.c.expires),
            },
        )
    )
