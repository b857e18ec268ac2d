"""A worker takes a job: one statement finds and leases it, whatever the length of the queue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, func, insert, or_, select, update

from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import InternalError
from aslconvert.workers.jobs.records import Claim, Queue, is_name, job_of
from aslconvert.workers.jobs.rows import announce, append, withdraw
from aslconvert.workers.jobs.states import State
from aslconvert.workers.jobs.tables import READY, WAITING, attempts, jobs

MAX_SECONDS = 3600.0  # of a lease or a delay: more than that in the future can only be a clock set back


def claim_next(transaction: Transaction, queues: Iterable[Queue], *, worker: str, lease_seconds: float) -> Claim | None:
    """Lease the oldest job among those of smallest priority, from the first queue that has one."""
    wake(transaction)
    for queue in queues:
        first = (
            select(jobs.c.id)
            .where(jobs.c.queue == queue, READY)
            .order_by(jobs.c.priority, jobs.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        claimed = _take(transaction, jobs.c.id == first.scalar_subquery(), worker, lease_seconds)
        if claimed is not None:
            return claimed
    return None


def claim_id(transaction: Transaction, job_id: str, *, worker: str, lease_seconds: float) -> Claim | None:
    """Lease this job; None if it is not ready, such as for the second of two messages with its id."""
    wake(transaction)
    return _take(transaction, jobs.c.id == job_id, worker, lease_seconds)


def wake(transaction: Transaction) -> None:
    """Make jobs ready whose delay is over."""
    now = transaction.now
    due = or_(
        jobs.c.available_at <= now,
        jobs.c.available_epoch != transaction.epoch,
        jobs.c.available_at > now + MAX_SECONDS,
    )
    statement = (
        update(jobs)
        .where(WAITING, due)
        .values(available_at=None, available_epoch=None)
        .returning(jobs.c.id, jobs.c.queue)
    )
    announce(transaction, *((row.id, row.queue) for row in transaction.connection.execute(statement).all()))


def _take(transaction: Transaction, which: ColumnElement[bool], worker: str, lease_seconds: float) -> Claim | None:
    if not is_name(worker) or not 0 < lease_seconds <= MAX_SECONDS:
        raise InternalError("bad_claim", f"A worker needs a name, and a lease of at most {MAX_SECONDS:.0f} s.")
    values: dict[str, Any] = {
        "state": State.RUNNING,
        "attempts_made": jobs.c.attempts_made + 1,
        "started": func.coalesce(jobs.c.started, transaction.wall),
        "stage": None,
        "done": None,
        "total": None,
        "unit": None,
        "lease_token": jobs.c.lease_token + 1,
        "lease_owner": worker,
        "lease_seconds": lease_seconds,
        "lease_expiry": transaction.now + lease_seconds,
        "lease_epoch": transaction.epoch,
        "version": jobs.c.version + 1,
        "event_count": jobs.c.event_count + 1,
    }
    row = transaction.connection.execute(update(jobs).where(which, READY).values(values).returning(jobs)).one_or_none()
    if row is None:
        return None
    transaction.connection.execute(
        insert(attempts).values(job_id=row.id, token=row.lease_token, worker=worker, started=transaction.wall)
    )
    append(transaction, row, ("running", {"attempt": row.lease_token}))
    withdraw(transaction, row.id)
    return Claim(job_of(row), row.lease_token, worker, lease_seconds)
