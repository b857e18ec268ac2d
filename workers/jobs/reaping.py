"""Leases end when their holders fall silent, and finished jobs when nobody came for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, delete, func, or_, select, update

from aslconvert.workers.database import Transaction
from aslconvert.workers.database.clock import StepWatch
from aslconvert.workers.errors import Problem, problem
from aslconvert.workers.jobs.claiming import wake
from aslconvert.workers.jobs.rows import NO_LEASE, announce, append, change, end_attempt, seen
from aslconvert.workers.jobs.states import FINISHED, State, require
from aslconvert.workers.jobs.tables import ENDED, LEASED, events, idempotency_keys, jobs
from aslconvert.workers.storage.references import CHECKPOINT, JOB, release

_SLACK = 1.0  # seconds by which two readings of a server's clock may differ without having been set


@dataclass(frozen=True)
class Reaped:
    """A job whose worker fell silent, and what became of it."""

    job_id: str
    state: State


def reap(transaction: Transaction, watch: StepWatch, *, limit: int) -> list[Reaped]:
    """Take jobs from silent workers, and wake those whose delay is over."""
    wake(transaction)
    now, epoch = transaction.now, transaction.epoch
    # A lease can end later than its own length from now only if the clock was set back since.
    transaction.connection.execute(
        update(jobs)
        .where(LEASED, jobs.c.lease_epoch == epoch, jobs.c.lease_expiry > now + jobs.c.lease_seconds + _SLACK)
        .values(lease_expiry=now + jobs.c.lease_seconds)
    )
    shared, longest = transaction.connection.execute(
        select(now, select(func.max(jobs.c.lease_seconds)).where(LEASED).scalar_subquery())
    ).one()
    if not watch.allows(shared=shared, local=transaction.clock.local(), grace=longest or 0.0):
        return []
    silent = (
        select(jobs)
        .where(LEASED, or_(jobs.c.lease_epoch != epoch, jobs.c.lease_expiry <= now))
        .order_by(jobs.c.lease_expiry)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [_take_back(transaction, row) for row in transaction.connection.execute(silent).all()]


def expire(transaction: Transaction, *, keep: timedelta, keep_keys: timedelta, limit: int) -> list[str]:
    """Empty jobs that finished longer than ``keep`` ago; forget idempotency keys older than ``keep_keys``."""
    old = (
        select(jobs.c.id, jobs.c.state)
        .where(ENDED, jobs.c.finished < transaction.wall - keep, jobs.c.state.in_(list(FINISHED)))
        .order_by(jobs.c.finished)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    expired = []
    for job_id, state in transaction.connection.execute(old).all():
        require(State(state), State.EXPIRED)
        transaction.connection.execute(delete(events).where(events.c.job_id == job_id))
        row = change(transaction, job_id, state=State.EXPIRED, result=None, **seen())
        append(transaction, row, (State.EXPIRED, {}))
        release(transaction, JOB, job_id)
        release(transaction, CHECKPOINT, job_id)
        expired.append(job_id)
    stale = idempotency_keys.c.created < transaction.wall - keep_keys
    transaction.connection.execute(delete(idempotency_keys).where(stale))
    return expired


def _take_back(transaction: Transaction, row: Row[Any]) -> Reaped:
    before = State(row.state)
    if before is State.CANCELLING:
        after = State.CANCELLED
    elif row.attempts_made >= row.max_attempts:
        after = State.FAILED
    else:
        after = State.QUEUED
    require(before, after)
    poison = _poison(row) if after is State.FAILED else None
    told = {"reason": "lost"} if poison is None else {"problem": poison.model_dump()}
    changed = change(
        transaction,
        row.id,
        state=after,
        problem=None if poison is None else poison.model_dump(),
        finished=None if after is State.QUEUED else transaction.wall,
        **NO_LEASE,
        **seen(),
    )
    append(transaction, changed, ("requeued" if after is State.QUEUED else after, told))
    end_attempt(transaction, row.id, row.lease_token, "lost", poison)
    if after is State.QUEUED:
        announce(transaction, (row.id, row.queue))
    return Reaped(row.id, after)


def _poison(row: Row[Any]) -> Problem:
    return problem(
        "poison",
        f"{row.attempts_made} workers in a row fell silent while they had this job.",
        kind="infrastructure",
        hint="It may need more memory than the workers have; try a smaller one.",
    )
