"""Somebody wants a job stopped, or gone."""

from __future__ import annotations

from sqlalchemy import delete

from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import JobActive
from aslconvert.workers.jobs.records import Job, job_of
from aslconvert.workers.jobs.rows import append, change, locked, seen, withdraw
from aslconvert.workers.jobs.states import FINISHED, State, require
from aslconvert.workers.jobs.tables import jobs
from aslconvert.workers.storage.references import CHECKPOINT, JOB, release


def request_cancel(transaction: Transaction, job_id: str, *, tenant: str | None) -> Job:
    """Cancel a queued job at once, flag one at work, and leave any other as it is."""
    row = locked(transaction, job_id, tenant=tenant)
    state = State(row.state)
    if state is State.QUEUED:
        require(state, State.CANCELLED)
        withdraw(transaction, job_id)
        row = change(
            transaction,
            job_id,
            state=State.CANCELLED,
            cancel_requested=True,
            finished=transaction.wall,
            available_at=None,
            available_epoch=None,
            **seen(),
        )
        append(transaction, row, (State.CANCELLED, {}))
    elif state is State.RUNNING:
        require(state, State.CANCELLING)
        row = change(transaction, job_id, state=State.CANCELLING, cancel_requested=True, **seen())
        append(transaction, row, (State.CANCELLING, {}))
    return job_of(row)


def remove(transaction: Transaction, job_id: str, *, tenant: str | None) -> None:
    """Delete a finished job with everything that belongs to it, and let go of its blobs."""
    row = locked(transaction, job_id, tenant=tenant)
    if row.state not in FINISHED | {State.EXPIRED}:
        raise JobActive(job_id, row.state)
    release(transaction, JOB, job_id)
    release(transaction, CHECKPOINT, job_id)
    transaction.connection.execute(delete(jobs).where(jobs.c.id == job_id))
