"""`/v1/jobs`: submit, look, cancel, retry, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from aslconvert.service.context import Context, Ctx
from aslconvert.service.idempotency import Answer, RequestKey, once
from aslconvert.service.jobs import repository, submission
from aslconvert.service.jobs.glances import Glances
from aslconvert.service.jobs.repository import Known
from aslconvert.service.jobs.schemas import Identity, Job, JobAsked, JobId, JobKind
from aslconvert.service.jobs.telling import told
from aslconvert.service.keys import audit
from aslconvert.service.paging import Listed, Paged
from aslconvert.service.responses import CREATES, problems
from aslconvert.service.security.callers import Caller, Reader, Writer
from aslconvert.workers.database import Transaction
from aslconvert.workers.jobs import State
from aslconvert.workers.jobs.cancelling import request_cancel
from aslconvert.workers.tracing import request_span

router = APIRouter(tags=["jobs"])

RETRY_AFTER = {"Retry-After": "1"}
_ACCEPTED: dict[str, Any] = {
    "headers": {
        "Location": {"schema": {"type": "string"}, "description": "Where the job is."},
        "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds until a look may be worth it."},
    }
}


@router.post("/v1/jobs", status_code=202, response_model=Job, responses={**CREATES, **problems(404), 202: _ACCEPTED})
def submit_job(asked: JobAsked, context: Ctx, caller: Writer, request_key: RequestKey, request: Request) -> Response:
    """Queue a job. Repeated with the same Idempotency-Key it gives the same answer, and one job."""
    with request_span("POST /v1/jobs", "/v1/jobs", request.headers) as trace:

        def work(at: Transaction) -> Answer:
            known = submission.enter(at, context, caller, asked, trace=trace)
            audit.record(at, caller, "job.submit", known.job.id)
            return _accepted(context, known)

        return _answered(context, caller, request_key, "job.submit", asked.model_dump(mode="json"), work)


@router.get("/v1/jobs", responses=problems(401, 403, 422, 429))
def list_jobs(
    context: Ctx,
    caller: Reader,
    paging: Paged,
    state: State | None = None,
    kind: JobKind | None = None,
    model: Annotated[Identity | None, Query(description="A model's id.")] = None,
) -> Listed[Job]:
    """Jobs of the tenant, newest first."""
    after = paging.after
    found = context.database.read(
        lambda at: repository.page(
            at, tenant=caller.tenant, state=state, kind=kind, model_id=model, after=after, limit=paging.limit + 1
        )
    )
    shown, following = paging.page(found, lambda known: str(known.job.id))
    return Listed[Job](items=[told(context, known) for known in shown], next=following)


@router.get(
    "/v1/jobs/{job_id}",
    response_model=Job,
    responses={
        **problems(401, 403, 404, 422, 429),
        200: {"headers": {"ETag": {"schema": {"type": "string"}, "description": "Changes with the job."}}},
        304: {"description": "Nothing has changed since the answer with that ETag."},
    },
)
async def get_job(
    job_id: JobId,
    context: Ctx,
    caller: Reader,
    if_none_match: Annotated[str | None, Header(description="The ETag of an earlier answer.")] = None,
) -> Response:
    """A job as it stands. Poll with If-None-Match: as long as nothing has changed the answer is an empty 304."""
    # Most of these are answered before they come here, by polling.py, in the same way.
    return (await Glances.of(context).look(job_id, caller.tenant)).answer(if_none_match)


@router.delete("/v1/jobs/{job_id}", status_code=204, responses=problems(401, 403, 404, 409, 422, 429))
def delete_job(job_id: JobId, context: Ctx, caller: Writer) -> None:
    """Delete an ended job with its events, its report and its artifacts."""

    def work(at: Transaction) -> None:
        submission.drop(at, job_id, tenant=caller.tenant)
        audit.record(at, caller, "job.delete", job_id)

    context.database.write(work)


@router.post(
    "/v1/jobs/{job_id}/cancel", status_code=202, response_model=Job, responses=problems(401, 403, 404, 422, 429)
)
def cancel_job(job_id: JobId, context: Ctx, caller: Writer) -> Response:
    """Ask a job to stop: a queued one does at once, one at work within seconds, an ended one stays as it is."""

    def work(at: Transaction) -> Known:
        request_cancel(at, job_id, tenant=caller.tenant)
        audit.record(at, caller, "job.cancel", job_id)
        return repository.find(at, job_id, tenant=caller.tenant, place=True)

    answer = _accepted(context, context.database.write(work))
    return JSONResponse(answer.body, status_code=answer.status, headers=dict(answer.headers))


@router.post(
    "/v1/jobs/{job_id}/retry",
    status_code=202,
    response_model=Job,
    responses={**problems(401, 403, 404, 409, 422, 429), 202: _ACCEPTED},
)
def retry_job(job_id: JobId, context: Ctx, caller: Writer, request_key: RequestKey, request: Request) -> Response:
    """Queue a new job with what a failed, cancelled or expired one was given."""
    with request_span("POST /v1/jobs/{job_id}/retry", "/v1/jobs/{job_id}/retry", request.headers) as trace:

        def work(at: Transaction) -> Answer:
            known = submission.again(at, context, caller, job_id, trace=trace)
            audit.record(at, caller, "job.retry", job_id)
            return _accepted(context, known)

        return _answered(context, caller, request_key, "job.retry", job_id, work)


def _answered(
    context: Context, caller: Caller, request_key: str | None, operation: str, asked: Any, work: Any
) -> JSONResponse:
    answer = once(context, caller, request_key, operation=operation, asked=asked, work=work)
    context.wake()
    return JSONResponse(answer.body, status_code=answer.status, headers=dict(answer.headers))


def _accepted(context: Context, known: Known) -> Answer:
    job = told(context, known)
    return Answer(202, job.model_dump(mode="json"), {"Location": job.links.self, **RETRY_AFTER})
