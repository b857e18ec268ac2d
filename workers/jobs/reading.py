"""What can be asked of the store: jobs, events, attempts, pages, places in the queue, figures."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Select, func, select, tuple_

from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import JobNotFound, UserError
from aslconvert.workers.jobs.records import Attempt, Event, Job, Kind, Page, Queue, QueueFigures, job_of, problem_from
from aslconvert.workers.jobs.states import State
from aslconvert.workers.jobs.tables import LEASED, READY, attempts, events, jobs

MAX_PAGE: Final = 100
_ID = re.compile(r"[0-9a-f-]{36}")


def job(transaction: Transaction, job_id: str, *, tenant: str | None) -> Job:
    """One job."""
    row = transaction.connection.execute(_mine(select(jobs).where(jobs.c.id == job_id), tenant)).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return job_of(row)


def events_after(transaction: Transaction, job_id: str, number: int, *, limit: int) -> Sequence[Event]:
    """Events of a job with a higher number, in order."""
    statement = (
        select(events).where(events.c.job_id == job_id, events.c.number > number).order_by(events.c.number).limit(limit)
    )
    return [
        Event(row.job_id, row.number, row.type, row.data, row.at) for row in transaction.connection.execute(statement)
    ]


def attempts_of(transaction: Transaction, job_id: str) -> Sequence[Attempt]:
    """The tries of a job, in order."""
    statement = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.token)
    return [
        Attempt(row.job_id, row.token, row.worker, row.started, row.ended, row.outcome, problem_from(row.problem))
        for row in transaction.connection.execute(statement)
    ]


def page(
    transaction: Transaction,
    *,
    tenant: str | None,
    state: State | None,
    kind: Kind | None,
    cursor: str | None,
    limit: int,
) -> Page:
    """Jobs, newest first."""
    limit = max(1, min(limit, MAX_PAGE))
    statement = _mine(select(jobs), tenant).order_by(jobs.c.id.desc()).limit(limit + 1)
    if state is not None:
        statement = statement.where(jobs.c.state == state)
    if kind is not None:
        statement = statement.where(jobs.c.kind == kind)
    if cursor is not None:
        statement = statement.where(jobs.c.id < _id_of(cursor))
    rows = transaction.connection.execute(statement).all()
    shown = [job_of(row) for row in rows[:limit]]
    return Page(shown, _cursor_of(shown[-1].id) if len(rows) > limit else None)


def position(transaction: Transaction, job_id: str) -> int | None:
    """The job's place in its queue, from 1; None if it is not ready to be claimed."""
    mine = transaction.connection.execute(
        select(jobs.c.queue, jobs.c.priority).where(jobs.c.id == job_id, READY)
    ).one_or_none()
    if mine is None:
        return None
    ahead = (
        select(func.count())
        .select_from(jobs)
        .where(READY, jobs.c.queue == mine.queue)
        .where(tuple_(jobs.c.priority, jobs.c.id) <= tuple_(mine.priority, job_id))
    )
    return int(transaction.connection.execute(ahead).scalar_one())


def figures(transaction: Transaction) -> Sequence[QueueFigures]:
    """Every queue for the metrics."""
    connection, now = transaction.connection, transaction.now
    counts: dict[str, dict[State, int]] = {queue: {} for queue in Queue}
    grouped = select(jobs.c.queue, jobs.c.state, func.count()).group_by(jobs.c.queue, jobs.c.state)
    for queue, state, count in connection.execute(grouped):
        counts[queue][State(state)] = count
    oldest = {
        row.queue: row.since
        for row in connection.execute(
            select(jobs.c.queue, func.min(jobs.c.created).label("since")).where(READY).group_by(jobs.c.queue)
        )
    }
    heard = now - jobs.c.lease_expiry + jobs.c.lease_seconds
    silence = {
        row.queue: row.longest
        for row in connection.execute(
            select(jobs.c.queue, func.max(heard).label("longest"))
            .where(LEASED, jobs.c.lease_epoch == transaction.epoch)
            .group_by(jobs.c.queue)
        )
    }
    return [
        QueueFigures(
            queue,
            counts[queue],
            max(0.0, (transaction.wall - oldest[queue]).total_seconds()) if queue in oldest else 0.0,
            max(0.0, silence.get(queue, 0.0)),
        )
        for queue in Queue
    ]


def _mine(statement: Select[Any], tenant: str | None) -> Select[Any]:
    return statement if tenant is None else statement.where(jobs.c.tenant == tenant)


def _cursor_of(job_id: str) -> str:
    return base64.urlsafe_b64encode(f"1:{job_id}".encode()).decode().rstrip("=")


def _id_of(cursor: str) -> str:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise UserError("bad_cursor", "The cursor is not one that a page gave.") from error
    version, _, job_id = text.partition(":")
    if version != "1" or not _ID.fullmatch(job_id):
        raise UserError("bad_cursor", "The cursor is not one that a page gave.")
    return job_id
