"""Reports, variants and artifacts of jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from aslconvert.service.context import Context, Ctx
from aslconvert.service.jobs import repository
from aslconvert.service.jobs.schemas import JobId
from aslconvert.service.models import repository as models
from aslconvert.service.paging import Listed, Paged
from aslconvert.service.reports import files, links, ranges, variants
from aslconvert.service.reports.links import Allowed
from aslconvert.service.reports.schemas import Artifact, ArtifactId, Link, LinkAsked, Variant, VariantsOfModel
from aslconvert.service.responses import problems
from aslconvert.service.security.callers import Reader
from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import InternalError
from aslconvert.workers.jobs import Job

router = APIRouter(tags=["results"])

ModelId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z._-]+$")]

OCTETS = "application/octet-stream"
PAGE_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)
"""A report was written by a job that a stranger's file may have taken over: its page is shown as nobody's."""

_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}, "description": "All bytes."},
    206: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}, "description": "The range."},
    304: {"description": "Nothing has changed since the answer with that ETag."},
}


@router.get(
    "/v1/jobs/{job_id}/report",
    response_class=Response,
    responses={
        **problems(401, 403, 404, 416, 422, 429),
        **{status: _BYTES[status] for status in (206, 304)},
        200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "report.json."},
    },
)
def get_report(job_id: JobId, request: Request, context: Ctx, caller: Reader) -> Response:
    """The report as it was written, `report.json`."""
    file = files.named(_job(context, job_id, caller.tenant), files.REPORT, what="report")
    return ranges.answer(
        context.blobs, request, sha256=file.sha256, size=file.bytes, media_type="application/json", headers={}
    )


@router.get(
    "/v1/jobs/{job_id}/report.html",
    response_class=Response,
    responses={
        **problems(401, 403, 404, 416, 422, 429),
        **{status: _BYTES[status] for status in (206, 304)},
        200: {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "The page."},
    },
)
def get_report_page(job_id: JobId, request: Request, context: Ctx, caller: Reader) -> Response:
    """The report as a page, which needs nothing else."""
    file = files.named(_job(context, job_id, caller.tenant), files.PAGE, what="report")
    headers = {"Content-Security-Policy": PAGE_POLICY}
    return ranges.answer(
        context.blobs, request, sha256=file.sha256, size=file.bytes, media_type="text/html", headers=headers
    )


@router.get("/v1/jobs/{job_id}/variants", responses=problems(401, 403, 404, 422, 429))
def list_variants(job_id: JobId, request: Request, context: Ctx, caller: Reader) -> Listed[Variant]:
    """What the conversion found, in the report's order."""
    job = _job(context, job_id, caller.tenant)
    return Listed[Variant](items=variants.variants_of(_reports(context), job))


@router.get("/v1/jobs/{job_id}/artifacts", responses=problems(401, 403, 404, 422, 429))
def list_artifacts(job_id: JobId, context: Ctx, caller: Reader) -> Listed[Artifact]:
    """Every file of the result, the report among them; none where there is no result."""
    job = _job(context, job_id, caller.tenant)
    return Listed[Artifact](items=variants.artifacts_of(_reports(context), job))


@router.get("/v1/models/{model_id}/variants", responses=problems(401, 403, 404, 422, 429))
def list_variants_of_model(model_id: ModelId, context: Ctx, caller: Reader, paging: Paged) -> VariantsOfModel:
    """Variants of the model's jobs, newest job first; `limit` counts jobs."""
    after = paging.after

    def work(at: Transaction) -> Any:
        models.find(at, model_id, tenant=caller.tenant)
        return repository.page(
            at,
            tenant=caller.tenant,
            state=None,
            kind=None,
            model_id=model_id,
            after=after,
            limit=paging.limit + 1,
        )

    shown, following = paging.page(context.database.read(work), lambda known: str(known.job.id))
    reports = _reports(context)
    found: list[Variant] = []
    damaged: list[str] = []
    for known in shown:
        if not any(file.name == files.REPORT for file in files.files_of(known.job)):
            continue
        try:
            found += variants.variants_of(reports, known.job)
        except InternalError:
            # One report must not hide those of the other jobs.
            damaged.append(known.job.id)
    return VariantsOfModel(items=found, next=following, damaged=damaged)


@router.get(
    "/v1/artifacts/{artifact_id}",
    response_class=Response,
    responses={**_BYTES, **problems(401, 403, 404, 416, 422, 429)},
)
def get_artifact(artifact_id: ArtifactId, request: Request, context: Ctx, tenant: Allowed) -> Response:
    """The bytes of a file; `Range` for a part of them. `Repr-Digest` is the SHA-256 of the whole."""
    return _artifact(artifact_id, request, context, tenant)


@router.head(
    "/v1/artifacts/{artifact_id}",
    response_class=Response,
    responses={**_BYTES, **problems(401, 403, 404, 416, 422, 429)},
)
def head_artifact(artifact_id: ArtifactId, request: Request, context: Ctx, tenant: Allowed) -> Response:
    """What a GET would tell of the file."""
    return _artifact(artifact_id, request, context, tenant)


@router.post("/v1/artifacts/{artifact_id}/link", responses=problems(400, 401, 403, 404, 413, 422, 429))
def make_link(artifact_id: ArtifactId, asked: LinkAsked, request: Request, context: Ctx, caller: Reader) -> Link:
    """An address that whoever has it may read this file at, without a key, until it expires."""
    file = context.database.read(lambda at: files.find(at, artifact_id, tenant=caller.tenant))
    expires = int(datetime.now(UTC).timestamp()) + asked.seconds
    signed = links.signature(context, file.id, expires)
    base = (context.settings.public_url or str(request.base_url)).rstrip("/")
    url = f"{base}/v1/artifacts/{file.id}?expires={expires}&signature={signed}"
    return Link(url=url, expires=datetime.fromtimestamp(expires, UTC))


def _artifact(artifact_id: str, request: Request, context: Context, tenant: str | None) -> Response:
    file = context.database.read(lambda at: files.find(at, artifact_id, tenant=tenant))
    headers = {"Content-Disposition": ranges.attachment(PurePosixPath(file.name).name)}
    return ranges.answer(
        context.blobs, request, sha256=file.sha256, size=file.bytes, media_type=OCTETS, headers=headers
    )


def _job(context: Context, job_id: str, tenant: str) -> Job:
    return context.database.read(lambda at: repository.find(at, job_id, tenant=tenant)).job


def _reports(context: Context) -> variants.Reports:
    kept: variants.Reports = context.parts.setdefault(variants.Reports, variants.Reports(context.blobs))
    return kept
