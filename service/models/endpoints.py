"""`/v1/models`: what a tenant has uploaded as models."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from aslconvert.service.context import Ctx
from aslconvert.service.idempotency import RequestKey
from aslconvert.service.keys import audit
from aslconvert.service.models.schemas import Model, shown
from aslconvert.service.paging import Listed, Paged
from aslconvert.service.responses import problems
from aslconvert.service.security.callers import Reader, Writer
from aslconvert.service.uploads.forms import answered, form_body, upload_form
from aslconvert.service.uploads.running import TheUploads
from aslconvert.service.uploads.schemas import UploadView
from aslconvert.service.uploads.shelf import MODELS
from aslconvert.service.uploads.uses import take_away
from aslconvert.workers.database import Transaction

router = APIRouter(tags=["models"])

Cascade = Annotated[bool, Query(description="Delete its jobs and their results too.")]


@router.post(
    "/v1/models",
    status_code=201,
    response_model=Model,
    responses={
        200: {"model": Model, "description": "The tenant had it already"},
        202: {"model": UploadView, "description": "It is still being vetted: ask at Location"},
        **problems(400, 401, 403, 408, 413, 415, 422, 429),
    },
    openapi_extra=form_body("name", "architecture"),
)
async def create_model(
    request: Request, context: Ctx, caller: Writer, uploads: TheUploads, request_key: RequestKey
) -> Response:
    """Upload a small model in one request; larger ones go to `/v1/uploads`."""
    outcome = await upload_form(
        request, kind="model", fields=frozenset({"name", "architecture"}), context=context, caller=caller,
        uploads=uploads, key=request_key,
    )  # fmt: skip
    return await to_thread.run_sync(
        lambda: answered(context, outcome, lambda kept: shown(kept).model_dump_json(by_alias=True))
    )


@router.get("/v1/models", responses=problems(401, 403, 422, 429))
def list_models(context: Ctx, caller: Reader, paging: Paged) -> Listed[Model]:
    """Models of the tenant, newest first."""
    after = paging.after
    found = context.database.read(lambda at: MODELS.page(at, tenant=caller.tenant, after=after, limit=paging.limit + 1))
    kept, following = paging.page(found, lambda one: str(one.id))
    return Listed[Model](items=[shown(one) for one in kept], next=following)


@router.get("/v1/models/{model_id}", responses=problems(401, 403, 404, 422, 429))
def get_model(model_id: str, context: Ctx, caller: Reader) -> Model:
    """One model."""
    return shown(context.database.read(lambda at: MODELS.get(at, model_id, tenant=caller.tenant)))


@router.delete("/v1/models/{model_id}", status_code=204, responses=problems(401, 403, 404, 409, 422, 429))
def delete_model(model_id: str, context: Ctx, caller: Writer, cascade: Cascade = False) -> None:
    """Delete a model that no job was given, or with its jobs."""

    def work(at: Transaction) -> None:
        take_away(at, MODELS, model_id, tenant=caller.tenant, cascade=cascade)
        audit.record(at, caller, "model.delete", model_id)

    context.database.write(work)
