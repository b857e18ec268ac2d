"""A job of the store as the service tells it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Any

from aslconvert.service.context import Context
from aslconvert.service.errors import details
from aslconvert.service.jobs import schemas
from aslconvert.service.jobs.repository import Known, stage_began
from aslconvert.workers.jobs import State

_MOST_STAGES = 1000


class Stages:
    """When stages began: asked of the database once, and not at every look at a job."""

    def __init__(self) -> None:
        self._began: OrderedDict[tuple[str, int, str], datetime | None] = OrderedDict()
        self._lock = threading.Lock()

    def began(self, context: Context, known: Known) -> datetime | None:
        """The beginning of the job's stage."""
        job = known.job
        key = (job.id, job.attempts_made, job.stage or "")
        with self._lock:
            if key in self._began:
                return self._began[key]
        found = context.database.read(lambda at: stage_began(at, job.id))
        with self._lock:
            self._began[key] = found
            while len(self._began) > _MOST_STAGES:
                self._began.popitem(last=False)
        return found


def told(context: Context, known: Known) -> schemas.Job:
    """The job; an estimate of its stage's end needs one look at the database for each stage."""
    job = known.job
    base = f"/v1/jobs/{job.id}"
    result: dict[str, Any] = dict(job.result or {})
    files = result.get("files") or {}
    progress = None
    if job.progress is not None:
        progress = schemas.Progress(done=job.progress.done, total=job.progress.total, unit=job.progress.unit)
    keep = timedelta(days=context.settings.retention_days)
    has_report = "report.json" in files
    return schemas.Job(
        id=job.id,
        kind=job.kind.value,
        device=job.queue.value,
        state=job.state,
        stage=job.stage,
        progress=progress,
        eta_s=_left(context, known),
        position=known.position,
        attempt=job.attempts_made,
        max_attempts=job.max_attempts,
        created=job.created,
        started=job.started,
        finished=job.finished,
        expires=None if job.finished is None else job.finished + keep,
        model=known.model_id,
        dataset=known.dataset_id,
        options=dict(job.payload.get("options") or {}),
        missed=None if result.get("missed") is None else schemas.Missed.model_validate(result["missed"]),
        forecast=result.get("forecast"),
        bench=result.get("bench"),
        error=None if job.problem is None else details(job.problem, instance=base),
        links=schemas.JobLinks(
            self=base,
            events=f"{base}/events",
            cancel=f"{base}/cancel",
            retry=f"{base}/retry",
            report=f"{base}/report" if has_report else None,
            variants=f"{base}/variants" if has_report else None,
            artifacts=f"{base}/artifacts" if files else None,
        ),
    )


def etag(known: Known) -> str:
    """Weak: it says that nothing has changed that somebody would wait for; an estimate is not."""
    return f'W/"{known.job.version}-{known.position or 0}"'


def _left(context: Context, known: Known) -> float | None:
    """Seconds until the stage is done if it goes on as it went."""
    progress = known.job.progress
    if known.job.state is not State.RUNNING or progress is None or not progress.total or progress.done <= 0:
        return None
    stages: Stages = context.parts.setdefault(Stages, Stages())
    began = stages.began(context, known)
    if began is None:
        return None
    spent = (datetime.now(UTC) - began).total_seconds()
    return round(max(0.0, spent * (progress.total - progress.done) / progress.done), 1)
