"""`/v1/datasets`: what a tenant has uploaded as data, and what a model would see of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from aslconvert.service.context import Ctx
from aslconvert.service.datasets.schemas import Dataset, Making, Preview, shown
from aslconvert.service.errors import ProblemDetails, ServiceError, answer
from aslconvert.service.idempotency import RequestKey
from aslconvert.service.keys import audit
from aslconvert.service.paging import Listed, Paged
from aslconvert.service.responses import problems
from aslconvert.service.security.callers import Reader, Writer
from aslconvert.service.uploads.forms import answered, form_body, upload_form
from aslconvert.service.uploads.running import ThePreviews, TheUploads
from aslconvert.service.uploads.schemas import UploadView
from aslconvert.service.uploads.shelf import DATASETS, MODELS, Kept
from aslconvert.service.uploads.uses import take_away
from aslconvert.workers.database import Transaction

router = APIRouter(tags=["datasets"])

Cascade = Annotated[bool, Query(description="Delete its jobs and their results too.")]
Size = Annotated[str | None, Query(pattern=r"^[0-9]{1,5}(x[0-9]{1,5})?$", description="N or HxW: resize images.")]
Scale = Annotated[float | None, Query(gt=0, allow_inf_nan=False, description="Factor on raw values.")]
Numbers = Annotated[
    list[Annotated[float, Query(allow_inf_nan=False)]] | None,
    Query(max_length=64, description="Per channel or for all."),
]
Channels = Annotated[Literal["rgb", "bgr", "gray"] | None, Query(description="Order of channels.")]


@router.post(
    "/v1/datasets",
    status_code=201,
    response_model=Dataset,
    responses={
        200: {"model": Dataset, "description": "The tenant had it already"},
        202: {"model": UploadView, "description": "It is still being vetted: ask at Location"},
        **problems(400, 401, 403, 408, 413, 415, 422, 429),
    },
    openapi_extra=form_body("name"),
)
async def create_dataset(
    request: Request, context: Ctx, caller: Writer, uploads: TheUploads, request_key: RequestKey
) -> Response:
    """Upload a small data set in one request; larger ones go to `/v1/uploads`."""
    outcome = await upload_form(
        request, kind="dataset", fields=frozenset({"name"}), context=context, caller=caller, uploads=uploads,
        key=request_key,
    )  # fmt: skip
    return await to_thread.run_sync(
        lambda: answered(context, outcome, lambda kept: shown(kept).model_dump_json(by_alias=True))
    )


@router.get("/v1/datasets", responses=problems(401, 403, 422, 429))
def list_datasets(context: Ctx, caller: Reader, paging: Paged) -> Listed[Dataset]:
    """Data sets of the tenant, newest first."""
    after = paging.after
    found = context.database.read(
        lambda at: DATASETS.page(at, tenant=caller.tenant, after=after, limit=paging.limit + 1)
    )
    kept, following = paging.page(found, lambda one: str(one.id))
    return Listed[Dataset](items=[shown(one) for one in kept], next=following)


@router.get("/v1/datasets/{dataset_id}", responses=problems(401, 403, 404, 422, 429))
def get_dataset(dataset_id: str, context: Ctx, caller: Reader) -> Dataset:
    """One data set."""
    return shown(context.database.read(lambda at: DATASETS.get(at, dataset_id, tenant=caller.tenant)))


@router.delete("/v1/datasets/{dataset_id}", status_code=204, responses=problems(401, 403, 404, 409, 422, 429))
def delete_dataset(dataset_id: str, context: Ctx, caller: Writer, cascade: Cascade = False) -> None:
    """Delete a data set that no job was given, or with its jobs."""

    def work(at: Transaction) -> None:
        take_away(at, DATASETS, dataset_id, tenant=caller.tenant, cascade=cascade)
        audit.record(at, caller, "dataset.delete", dataset_id)

    context.database.write(work)


@router.get(
    "/v1/datasets/{dataset_id}/preview",
    response_model=Preview,
    responses={
        202: {"model": Making, "description": "It is being made: ask again after Retry-After seconds"},
        **problems(401, 403, 404, 422, 429),
    },
)
def preview_dataset(
    dataset_id: str,
    context: Ctx,
    caller: Reader,
    previews: ThePreviews,
    model: Annotated[str | None, Query(max_length=64, description="The model that would see it.")] = None,
    samples: Annotated[int, Query(ge=1, le=16)] = 4,
    size: Size = None,
    scale: Scale = None,
    mean: Numbers = None,
    std: Numbers = None,
    channels: Channels = None,
) -> Response:
    """Some samples as the model would get them, prepared as is declared here or in the data's `data.toml`."""

    def find(at: Transaction) -> tuple[Kept, Kept | None]:
        dataset = DATASETS.get(at, dataset_id, tenant=caller.tenant)
        return dataset, None if model is None else MODELS.get(at, model, tenant=caller.tenant)

    dataset, seer = context.database.read(find)
    given: dict[str, Any] = {"size": _size(size), "scale": scale, "mean": mean, "std": std, "channels": channels}
    options = {name: value for name, value in given.items() if value is not None}
    found = previews.ask(dataset, seer, samples=samples, options=options)
    if found is None:
        return Response(
            Making().model_dump_json(), status_code=202, media_type="application/json", headers={"Retry-After": "1"}
        )
    if isinstance(found, ProblemDetails):
        headers = {"Retry-After": "30"} if found.status == 503 else {}
        return answer(found.model_copy(update={"instance": f"/v1/datasets/{dataset_id}/preview"}), headers)
    return Response(found.model_dump_json(), media_type="application/json")


def _size(text: str | None) -> list[int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    found = [int(height), int(width or height)]
    if not all(0 < side <= 4096 for side in found):
        raise ServiceError("bad_size", "Images are resized to 1 to 4096 pixels a side.")
    return found
