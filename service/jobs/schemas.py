"""Jobs and their events as JSON."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from aslconvert.service.errors import ProblemDetails
from aslconvert.service.jobs.options import BenchOptions, Options
from aslconvert.workers.jobs import Queue, State
from aslconvert.workers.jobs.records import MAX_ATTEMPTS

Identity = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z._-]+$")]
JobId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z._-]+$", description="A job's id.")]


class JobKind(StrEnum):
    """What a job does: predict what a conversion would give, convert, or time a model."""

    INSPECT = "inspect"
    CONVERT = "convert"
    BENCH = "bench"


class WebhookAsked(BaseModel):
    """Who is to be told of the job's end: an address, and the secret that the messages are signed with."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(min_length=8, max_length=2000)]
    secret: Annotated[str, Field(min_length=16, max_length=200)]


class JobAsked(BaseModel):
    """A job to be. A conversion needs data, a bench takes none and has options of its own.

    ``device``: jobs for ``cuda`` wait for a worker that has one.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "kind": "convert",
                    "model": "0192f3c1-0000-7000-8000-000000000001",
                    "dataset": "0192f3c1-0000-7000-8000-000000000002",
                    "options": {"min_speedup": 3, "budget_seconds": 600},
                }
            ]
        },
    )

    kind: JobKind
    model: Identity
    dataset: Identity | None = None
    options: Options | BenchOptions = Field(default_factory=Options)
    device: Queue = Queue.CPU
    webhook: WebhookAsked | None = None
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 3

    @field_validator("options", mode="before")
    @classmethod
    def _of_kind(cls, given: Any, info: ValidationInfo) -> Any:
        # By the kind, so that what is wrong is told of these options alone.
        wanted = BenchOptions if info.data.get("kind") is JobKind.BENCH else Options
        return wanted.model_validate(given)


class Progress(BaseModel):
    """How much of the stage is done, in its own unit."""

    done: int
    total: int | None
    unit: str


class Missed(BaseModel):
    """Why what was found is not what was asked for; the best is kept all the same."""

    code: str
    message: str
    hint: str = ""


class JobLinks(BaseModel):
    """Paths of what belongs to the job; those of results are null until there are any."""

    self: str
    events: str
    cancel: str
    retry: str
    report: str | None
    variants: str | None
    artifacts: str | None


class Job(BaseModel):
    """A job. ``eta_s``: seconds until the stage is done, as far as its progress tells; ``position``: in the queue, from
    1, told of single jobs; ``expires``: when result and events go; ``forecast`` of an inspection and ``bench`` of a
    bench are left out of lists.
    """

    id: str
    kind: str
    device: str
    state: State
    stage: str | None
    progress: Progress | None
    eta_s: float | None
    position: int | None
    attempt: int
    max_attempts: int
    created: datetime
    started: datetime | None
    finished: datetime | None
    expires: datetime | None
    model: str | None
    dataset: str | None
    options: dict[str, Any]
    missed: Missed | None
    forecast: dict[str, Any] | None
    bench: dict[str, Any] | None
    error: ProblemDetails | None
    links: JobLinks


class EventTold(BaseModel):
    """Something that happened to a job; numbers run from 1 without gaps."""

    number: int
    kind: str
    data: dict[str, Any]
    at: datetime
