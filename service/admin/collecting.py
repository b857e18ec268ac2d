"""Collects what nobody needs any more, as the running service does every few minutes, but now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete

from aslconvert.service.admin.backup import drop_stale_holds
from aslconvert.service.housekeeping import KEEP_ANSWERS
from aslconvert.service.keys.tables import request_keys
from aslconvert.workers.jobs import JobStore
from aslconvert.workers.storage import Blobs


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was taken away."""

    jobs_expired: int
    answers_forgotten: int
    backups_released: int
    blobs: int
    files_under_way: int


def collect(store: JobStore, blobs: Blobs, *, keep: timedelta, grace: float, abandoned: float) -> Collected:
    """Expire jobs that finished ``keep`` ago; delete blobs that nobody holds and that came ``grace`` seconds ago.

    ``abandoned``: seconds without a byte after which a file under way is taken for one of a dead writer.

    Raises:
        UserError: ``bad_grace``.
        InfrastructureError: whatever database and storage raise.
    """
    expired = 0
    while found := store.expire(keep=keep):
        expired += len(found)
    database = store.database
    old = request_keys.c.created
    forgotten = database.write(
        lambda at: at.connection.execute(delete(request_keys).where(old < at.wall - KEEP_ANSWERS)).rowcount
    )
    released = database.write(drop_stale_holds)
    gone = 0
    while dropped := blobs.collect(grace=grace):
        gone += len(dropped)
    return Collected(
        jobs_expired=expired,
        answers_forgotten=forgotten,
        backups_released=released,
        blobs=gone,
        files_under_way=blobs.sweep(older_than=abandoned),
    )
