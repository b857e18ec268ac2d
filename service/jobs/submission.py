"""A job is asked for: checked, entered with what it reads and who is to be told of it, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select

from aslconvert.service.context import Context
from aslconvert.service.datasets import repository as datasets
from aslconvert.service.errors import Conflict, ServiceError
from aslconvert.service.jobs import repository
from aslconvert.service.jobs.options import BenchOptions, Options
from aslconvert.service.jobs.repository import Known
from aslconvert.service.jobs.schemas import JobAsked, JobKind, WebhookAsked
from aslconvert.service.jobs.tables import job_inputs, webhooks
from aslconvert.service.keys import usage
from aslconvert.service.models import repository as models
from aslconvert.service.security.callers import Caller
from aslconvert.service.uploads.repository import one_at_a_time
from aslconvert.service.webhooks.guard import check_url
from aslconvert.workers.database import Transaction
from aslconvert.workers.jobs import Job, Kind, NewJob, State
from aslconvert.workers.jobs.cancelling import remove
from aslconvert.workers.jobs.ids import new_id
from aslconvert.workers.jobs.submitting import submit
from aslconvert.workers.jobs.tables import attempts

SOON = -10
"""Priority of what takes minutes and somebody waits for: not behind conversions, which may take hours."""

RETRIABLE = frozenset({State.FAILED, State.CANCELLED, State.EXPIRED})


def enter(
    at: Transaction, context: Context, caller: Caller, asked: JobAsked, *, trace: Mapping[str, str] | None = None
) -> Known:
    """Queue the job; ``trace`` is what its attempts join (`workers/tracing.py`).

    Raises:
        NotFound: no such model or data set for this tenant.
        ServiceError: ``needs_data``, ``takes_no_data``, ``webhook_url``.
        QuotaExceeded: ``quota_jobs``, ``quota_device_time``.
    """
    if asked.kind is JobKind.CONVERT and asked.dataset is None:
        raise ServiceError("needs_data", "A conversion needs data.", hint="Name a data set.")
    if asked.kind is JobKind.BENCH and asked.dataset is not None:
        raise ServiceError("takes_no_data", "A bench takes no data.", hint="Leave the data set out.")
    if asked.webhook is not None:
        check_url(asked.webhook.url, private=context.settings.webhook_private)
    model = models.find(at, asked.model, tenant=caller.tenant)
    payload: dict[str, Any] = {"model": model.blob, "options": _plain(asked.options), **(trace or {})}
    if model.architecture:
        payload["architecture"] = model.architecture
    blobs = [model.blob]
    if asked.dataset is not None:
        data = datasets.find(at, asked.dataset, tenant=caller.tenant)
        payload["data"] = data.blob
        blobs.append(data.blob)
    one_at_a_time(at, caller.tenant)
    usage.require_job(at, context.settings, caller.tenant)
    usage.require_storage(at, context.settings, caller.tenant, 0)
    new = NewJob(
        caller.tenant,
        Kind(asked.kind.value),
        asked.device,
        payload,
        priority=0 if asked.kind is JobKind.CONVERT else SOON,
        max_attempts=asked.max_attempts,
        blobs=blobs,
    )
    job = submit(at, new, idempotency=None)
    _remember(at, job, caller.tenant, asked.model, asked.dataset, asked.webhook)
    return repository.find(at, job.id, tenant=caller.tenant, place=True)


def again(
    at: Transaction, context: Context, caller: Caller, job_id: str, *, trace: Mapping[str, str] | None = None
) -> Known:
    """Queue what an ended job was given once more. Raises JobNotFound, Conflict ``job_not_retriable``, as `enter`."""
    known = repository.find(at, job_id, tenant=caller.tenant)
    if known.job.state not in RETRIABLE:
        hint = "Only failed, cancelled and expired jobs are tried again."
        raise Conflict("job_not_retriable", f"Job {job_id} is {known.job.state.value}.", hint=hint)
    found = at.connection.execute(select(webhooks).where(webhooks.c.job_id == job_id)).one_or_none()
    kind = JobKind(known.job.kind.value)
    asked = JobAsked(
        kind=kind,
        model=known.model_id or "",
        dataset=known.dataset_id,
        options=(BenchOptions if kind is JobKind.BENCH else Options).model_validate(
            known.job.payload.get("options") or {}
        ),
        device=known.job.queue,
        webhook=None if found is None else WebhookAsked(url=found.url, secret=found.secret),
        max_attempts=known.job.max_attempts,
    )
    return enter(at, context, caller, asked, trace=trace)


def drop(at: Transaction, job_id: str, *, tenant: str) -> None:
    """Delete an ended job and all that belongs to it; what it used stays counted. Raises JobNotFound, JobActive."""
    usage.keep_device_time(at, tenant, attempts.c.job_id == repository.find(at, job_id, tenant=tenant).job.id)
    remove(at, job_id, tenant=tenant)


def _plain(options: Options | BenchOptions) -> dict[str, Any]:
    # What is left out stays out, so that it has the default of the engine that runs the job.
    return options.model_dump(mode="json", exclude_unset=True, exclude_none=True)


def _remember(
    at: Transaction, job: Job, tenant: str, model_id: str, dataset_id: str | None, webhook: WebhookAsked | None
) -> None:
    values: dict[str, Any] = {"job_id": job.id, "tenant": tenant, "model_id": model_id, "dataset_id": dataset_id}
    at.connection.execute(insert(job_inputs).values(values))
    if webhook is not None:
        at.connection.execute(
            insert(webhooks).values(
                job_id=job.id,
                id=new_id(),
                url=webhook.url,
                secret=webhook.secret,
                tries=0,
                state="waiting",
                next_at=at.wall,
            )
        )
