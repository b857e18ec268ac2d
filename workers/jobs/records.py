"""What goes into the store and what comes out of it, as frozen values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Row

from aslconvert.workers.errors import InternalError, Problem, UserError
from aslconvert.workers.jobs.states import State

MAX_PAYLOAD: Final = 64 << 10  # bytes: ids and options, never data
MAX_RESULT: Final = 1 << 20
MAX_EVENT: Final = 64 << 10
MAX_ATTEMPTS: Final = 20


class Kind(StrEnum):
    """What a job does."""

    INSPECT = "inspect"
    CONVERT = "convert"
    BENCH = "bench"


class Queue(StrEnum):
    """The class of device that a job needs."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class Progress:
    """How much of a stage is done, in its own unit."""

    done: int
    total: int | None = None
    unit: str = ""


@dataclass(frozen=True)
class Idempotency:
    """A key that the caller made up, within a scope such as an API key."""

    scope: str
    key: str


@dataclass(frozen=True)
class NewJob:
    """A job to be: of small ``priority`` first, given up after ``max_attempts``, holding ``blobs`` by their hashes.

    Raises:
        UserError: ``bad_job``, ``payload_too_large``.
    """

    tenant: str
    kind: Kind
    queue: Queue
    payload: Mapping[str, Any]
    priority: int = 0
    max_attempts: int = 3
    blobs: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        if not is_name(self.tenant):
            raise UserError("bad_job", "A tenant is a printable text of at most 200 characters.")
        if self.kind not in set(Kind) or self.queue not in set(Queue):
            raise UserError("bad_job", f"No job is of kind {self.kind!r} on queue {self.queue!r}.")
        if not 1 <= self.max_attempts <= MAX_ATTEMPTS or not -1000 <= self.priority <= 1000:
            raise UserError("bad_job", f"At most {MAX_ATTEMPTS} attempts, and priorities from -1000 to 1000.")
        try:
            size = len(json.dumps(dict(self.payload), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UserError("bad_job", f"The payload is not JSON: {error}.") from error
        if size > MAX_PAYLOAD:
            raise UserError("payload_too_large", f"A payload has at most {MAX_PAYLOAD} bytes, this one {size}.")


@dataclass(frozen=True)
class Job:
    """A job as it stood when it was read; ``version`` changes with whatever a reader can see."""

    id: str
    tenant: str
    kind: Kind
    queue: Queue
    priority: int
    state: State
    stage: str | None
    progress: Progress | None
    payload: Mapping[str, Any]
    result: Mapping[str, Any] | None
    problem: Problem | None
    attempts_made: int
    max_attempts: int
    cancel_requested: bool
    created: datetime
    started: datetime | None
    finished: datetime | None
    version: int
    event_count: int


@dataclass(frozen=True)
class Claim:
    """A worker's right to write to a job, until its lease of ``lease_seconds`` ends without a heartbeat.

    ``token`` is both the attempt's number, from 1, and what fences off earlier holders.
    """

    job: Job
    token: int
    worker: str
    lease_seconds: float

    @property
    def job_id(self) -> str:
        return self.job.id


@dataclass(frozen=True)
class Attempt:
    """One try of a job; ``outcome`` is none while it is under way."""

    job_id: str
    token: int
    worker: str
    started: datetime
    ended: datetime | None
    outcome: str | None
    problem: Problem | None


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; numbers run from 1 without gaps."""

    job_id: str
    number: int
    type: str
    data: Mapping[str, Any]
    at: datetime


@dataclass(frozen=True)
class Page:
    """Jobs, newest first, and where the next page begins, if there is one."""

    jobs: Sequence[Job]
    cursor: str | None


@dataclass(frozen=True)
class QueueFigures:
    """A queue for the metrics: jobs by state, seconds since the oldest ready one was submitted, longest silence."""

    queue: Queue
    states: Mapping[State, int]
    oldest_ready_seconds: float
    longest_silence_seconds: float


def is_name(text: str) -> bool:
    """Whether a text can be stored as a name; control characters are taken by one database and not by the other."""
    return 0 < len(text) <= 200 and text.isprintable()


def checked_json(value: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """A plain copy of what a worker wants to store.

    Raises:
        InternalError: ``bad_json``, for what is not JSON, not finite, or longer than ``limit`` bytes.
    """
    try:
        text = json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InternalError("bad_json", f"Not JSON: {error}.") from error
    if len(text) > limit:
        raise InternalError("bad_json", f"At most {limit} bytes can be stored here, not {len(text)}.")
    copied: dict[str, Any] = json.loads(text)
    return copied


def job_of(row: Row[Any]) -> Job:
    """The record of a row of `tables.jobs`."""
    return Job(
        id=row.id,
        tenant=row.tenant,
        kind=Kind(row.kind),
        queue=Queue(row.queue),
        priority=row.priority,
        state=State(row.state),
        stage=row.stage,
        progress=None if row.done is None else Progress(row.done, row.total, row.unit or ""),
        payload=row.payload,
        result=row.result,
        problem=problem_from(row.problem),
        attempts_made=row.attempts_made,
        max_attempts=row.max_attempts,
        cancel_requested=row.cancel_requested,
        created=row.created,
        started=row.started,
        finished=row.finished,
        version=row.version,
        event_count=row.event_count,
    )


def problem_from(stored: Any) -> Problem | None:
    """A stored problem document, if there is one."""
    return None if stored is None else Problem.model_validate(stored)
