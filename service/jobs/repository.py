"""Jobs as the service reads them: with what they read, by tenant, filtered and in pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, select

from aslconvert.service.jobs.schemas import JobKind
from aslconvert.service.jobs.tables import job_inputs
from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import JobNotFound
from aslconvert.workers.jobs import Job, State
from aslconvert.workers.jobs.reading import position
from aslconvert.workers.jobs.records import job_of
from aslconvert.workers.jobs.tables import events, jobs


@dataclass(frozen=True)
class Known:
    """A job with the ids of what it reads."""

    job: Job
    model_id: str | None
    dataset_id: str | None
    position: int | None = None


def find(at: Transaction, job_id: str, *, tenant: str | None, place: bool = False) -> Known:
    """One job, with its place in the queue if that is wanted. Raises JobNotFound."""
    statement = _selected().where(jobs.c.id == job_id)
    if tenant is not None:
        statement = statement.where(jobs.c.tenant == tenant)
    row = at.connection.execute(statement).one_or_none()
    if row is None:
        raise JobNotFound(job_id[:64])
    ahead = position(at, job_id) if place and row.state == State.QUEUED else None
    return _known(row, ahead)


def page(
    at: Transaction,
    *,
    tenant: str,
    state: State | None,
    kind: JobKind | None,
    model_id: str | None,
    after: str | None,
    limit: int,
) -> Sequence[Known]:
    """Jobs, newest first, after the id ``after``; without what inspections and benches found, which may be large."""
    statement = _selected().where(jobs.c.tenant == tenant).order_by(jobs.c.id.desc()).limit(limit)
    if state is not None:
        statement = statement.where(jobs.c.state == state)
    if kind is not None:
        statement = statement.where(jobs.c.kind == kind)
    if model_id is not None:
        statement = statement.where(job_inputs.c.model_id == model_id, job_inputs.c.tenant == tenant)
    if after is not None:
        statement = statement.where(jobs.c.id < after)
    return [_brief(_known(row)) for row in at.connection.execute(statement)]


def stage_began(at: Transaction, job_id: str) -> datetime | None:
    """When the job's stage began."""
    statement = (
        select(events.c.at)
        .where(events.c.job_id == job_id, events.c.type == "stage")
        .order_by(events.c.number.desc())
        .limit(1)
    )
    return at.connection.execute(statement).scalar_one_or_none()


def _brief(known: Known) -> Known:
    kept = {name: value for name, value in (known.job.result or {}).items() if name in ("files", "missed")}
    return replace(known, job=replace(known.job, result=kept))


def _selected() -> Select[Any]:
    return select(jobs, job_inputs.c.model_id, job_inputs.c.dataset_id).outerjoin(
        job_inputs, job_inputs.c.job_id == jobs.c.id
    )


def _known(row: Row[Any], ahead: int | None = None) -> Known:
    return Known(job_of(row), row.model_id, row.dataset_id, ahead)
