"""Statements that several nouns share: the fenced update, events, ends of attempts, the outbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import Row, delete, insert, select, update

from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import JobNotFound, LeaseLost, Problem
from aslconvert.workers.jobs.records import Claim
from aslconvert.workers.jobs.states import HELD, State, require
from aslconvert.workers.jobs.tables import attempts, events, jobs, outbox

NO_LEASE: Final[Mapping[str, Any]] = {
    "lease_owner": None,
    "lease_seconds": None,
    "lease_expiry": None,
    "lease_epoch": None,
}


def fenced(
    transaction: Transaction, claim: Claim, after: State | None, *, allowed: Iterable[State] = HELD, **values: Any
) -> Row[Any] | None:
    """Update the claim's job in one statement, on the condition that the claim is in force; the row as it is then.

    None means that this attempt has already ended with ``after``, so that a repeated call does no harm.

    Raises:
        LeaseLost: the claim is not in force any more.
        IllegalTransition: it is, but the job cannot become ``after``.
    """
    statement = (
        update(jobs)
        .where(jobs.c.id == claim.job_id, jobs.c.lease_token == claim.token, jobs.c.state.in_(list(allowed)))
        .values(**values)
        .returning(jobs)
    )
    row = transaction.connection.execute(statement).one_or_none()
    if row is not None:
        return row
    found = transaction.connection.execute(
        select(jobs.c.state, jobs.c.lease_token, attempts.c.outcome)
        .join(attempts, (attempts.c.job_id == jobs.c.id) & (attempts.c.token == claim.token))
        .where(jobs.c.id == claim.job_id)
    ).one_or_none()
    if found is not None and found.lease_token == claim.token:
        if after is not None and found.state in HELD:
            require(State(found.state), after)
        # The attempt's own outcome, since a reaper may have brought the job to the same state.
        if after is not None and found.outcome == after:
            return None
    raise LeaseLost(claim.job_id, claim.token)


def locked(transaction: Transaction, job_id: str, *, tenant: str | None) -> Row[Any]:
    """The job's row, which nobody else changes until the transaction ends.

    Raises:
        JobNotFound: there is none, or not for this tenant.
    """
    statement = select(jobs).where(jobs.c.id == job_id).with_for_update()
    if tenant is not None:
        statement = statement.where(jobs.c.tenant == tenant)
    row = transaction.connection.execute(statement).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return row


def change(transaction: Transaction, job_id: str, **values: Any) -> Row[Any]:
    """Update a job that `locked` holds, or that this transaction made; the row as it is then."""
    return transaction.connection.execute(
        update(jobs).where(jobs.c.id == job_id).values(**values).returning(jobs)
    ).one()


def seen(events_added: int = 1) -> dict[str, Any]:
    """The values of an update that readers notice."""
    return {"version": jobs.c.version + 1, "event_count": jobs.c.event_count + events_added}


def append(transaction: Transaction, row: Row[Any], *added: tuple[str, Mapping[str, Any]]) -> None:
    """Write the last events of a job whose row counts them already."""
    first = row.event_count - len(added) + 1
    at = transaction.wall
    records = [
        {"job_id": row.id, "number": first + index, "type": kind, "data": dict(data), "at": at}
        for index, (kind, data) in enumerate(added)
    ]
    transaction.connection.execute(insert(events), records)


def end_attempt(
    transaction: Transaction, job_id: str, token: int, outcome: str, problem: Problem | None = None
) -> None:
    """Say how an attempt ended."""
    stored = None if problem is None else problem.model_dump()
    transaction.connection.execute(
        update(attempts)
        .where(attempts.c.job_id == job_id, attempts.c.token == token)
        .values(ended=transaction.wall, outcome=outcome, problem=stored)
    )


def announce(transaction: Transaction, *queued: tuple[str, str]) -> None:
    """Put jobs, as pairs of id and queue, into the outbox; a row from an earlier time in the queue is replaced."""
    if queued:
        withdraw(transaction, *(job_id for job_id, _ in queued))
        records = [{"job_id": job_id, "queue": queue} for job_id, queue in queued]
        transaction.connection.execute(insert(outbox), records)


def withdraw(transaction: Transaction, *job_ids: str) -> None:
    """Take jobs out of the outbox, as nobody needs to hear of them any more."""
    transaction.connection.execute(delete(outbox).where(outbox.c.job_id.in_(job_ids)))
