"""`/v1/uploads`: tus 1.0, and what became of an upload as JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from aslconvert.service.context import Context, Ctx
from aslconvert.service.idempotency import Answer, RequestKey, once
from aslconvert.service.keys import audit
from aslconvert.service.keys.usage import require_upload
from aslconvert.service.responses import problems
from aslconvert.service.security.callers import Caller, Reader, Writer
from aslconvert.service.uploads import protocol
from aslconvert.service.uploads.records import Upload, UploadState
from aslconvert.service.uploads.running import TheUploads
from aslconvert.service.uploads.schemas import UploadView, shown
from aslconvert.service.uploads.service import Expired, Uploads
from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import UserError

GONE = Response(status_code=400)
"""To a client that has gone away, and does not read it."""


class TusRoute(APIRoute):
    """Every answer says which tus this is, problems included."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """The handler with that around it."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response = await handler(request)
            except Exception as error:
                headers: Mapping[str, str] = getattr(error, "headers", None) or {}
                error.headers = {**headers, "Tus-Resumable": protocol.VERSION}  # type: ignore[attr-defined]
                raise
            response.headers["Tus-Resumable"] = protocol.VERSION
            return response

        return handle


tus = APIRouter(tags=["uploads"], route_class=TusRoute)
router = APIRouter()

Resumable = Annotated[str | None, Header(description=f"The version of tus: `{protocol.VERSION}`.")]
Length = Annotated[str | None, Header(description="Bytes that the file has.")]
About = Annotated[
    str | None,
    Header(
        description="`key base64` by commas: kind (model or dataset), filename, and optionally name, "
        "architecture (the network of bare weights) and sha256."
    ),
]
Offset = Annotated[str | None, Header(description="Where the body goes on: as many bytes as were received.")]
Promise = Annotated[str | None, Header(description="`sha256 base64`: without these bytes none is kept.")]
Whole = Annotated[
    str | None, Header(description="`sha-256=:base64:` (RFC 9530), which the whole file is checked against in the end.")
]

_BODY = {"requestBody": {"content": {protocol.BODY_TYPE: {"schema": {"type": "string", "format": "binary"}}}}}
_HEADERS: dict[str, Any] = {
    "Upload-Offset": {"description": "Bytes received.", "schema": {"type": "integer"}},
    "Upload-Expires": {"description": "Until when it is kept.", "schema": {"type": "string"}},
}


@tus.options("/v1/uploads", status_code=204, responses=problems(401, 403, 429))
def discover(context: Ctx, caller: Reader) -> Response:
    """What of tus is spoken here."""
    headers = {
        "Tus-Version": protocol.VERSION,
        "Tus-Extension": protocol.EXTENSIONS,
        "Tus-Checksum-Algorithm": protocol.ALGORITHMS,
        "Tus-Max-Size": str(context.settings.upload_bytes),
    }
    return Response(status_code=204, headers=headers)


@tus.post(
    "/v1/uploads",
    status_code=201,
    response_model=UploadView,
    responses={
        201: {"headers": {**_HEADERS, "Location": {"description": "The upload.", "schema": {"type": "string"}}}},
        **problems(400, 401, 403, 408, 412, 413, 415, 422, 423, 429, 460),
    },
    openapi_extra=_BODY,
)
async def create(
    request: Request,
    context: Ctx,
    caller: Writer,
    uploads: TheUploads,
    request_key: RequestKey,
    tus_resumable: Resumable = None,
    upload_length: Length = None,
    upload_metadata: About = None,
    upload_checksum: Promise = None,
) -> Response:
    """Announce an upload; a body is its first bytes."""
    headers = request.headers
    protocol.check_version(headers)
    size = protocol.number(headers, "upload-length")
    about = protocol.metadata(headers.get("upload-metadata", ""))
    checksum = protocol.checksum(headers)
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if has_body and headers.get("content-type") != protocol.BODY_TYPE:
        raise protocol.WrongType
    announce = partial(_announce, context, caller, uploads, request_key, about, size)
    answer = await to_thread.run_sync(announce)
    upload_id = str(answer.body["id"])
    location = {"Location": answer.headers["Location"]}
    try:
        upload, offset = await to_thread.run_sync(partial(_seen, uploads, upload_id, caller.tenant))
        # To a repeated request the bytes are there already, as many as the first one brought.
        if upload.state is UploadState.RECEIVING and offset == 0 and (has_body or upload.bytes == 0):
            upload, offset = await uploads.receive(
                upload_id, request.stream(), tenant=caller.tenant, offset=0, promised=_promised(headers),
                checksum=checksum,
            )  # fmt: skip
    except ClientDisconnect:
        return GONE
    except Exception as error:
        error.headers = {**(getattr(error, "headers", None) or {}), **location}  # type: ignore[attr-defined]
        raise
    view = shown(upload, received=offset).model_dump_json()
    return Response(
        view, status_code=201, media_type="application/json", headers={**location, **_state(upload, offset)}
    )


@tus.head(
    "/v1/uploads/{upload_id}", responses={200: {"headers": _HEADERS}, **problems(401, 403, 404, 410, 412, 423, 429)}
)
def offset(
    upload_id: str, request: Request, caller: Writer, uploads: TheUploads, tus_resumable: Resumable = None
) -> Response:
    """How much was received."""
    protocol.check_version(request.headers)
    upload, received = _seen(uploads, upload_id, caller.tenant)
    if upload.state is UploadState.EXPIRED:
        raise Expired(upload_id)
    headers = {"Upload-Length": str(upload.bytes), "Cache-Control": "no-store", **_state(upload, received)}
    if upload.metadata:
        headers["Upload-Metadata"] = upload.metadata
    return Response(status_code=200, headers=headers)


@tus.patch(
    "/v1/uploads/{upload_id}",
    status_code=204,
    responses={
        204: {"headers": _HEADERS},
        **problems(400, 401, 403, 404, 408, 409, 410, 412, 413, 415, 423, 429, 460),
    },
    openapi_extra=_BODY,
)
async def append(
    upload_id: str,
    request: Request,
    caller: Writer,
    uploads: TheUploads,
    tus_resumable: Resumable = None,
    upload_offset: Offset = None,
    upload_checksum: Promise = None,
    repr_digest: Whole = None,
) -> Response:
    """Go on with an upload. What was received when a connection breaks is kept, unless it had a checksum."""
    headers = request.headers
    protocol.check_version(headers)
    if headers.get("content-type") != protocol.BODY_TYPE:
        raise protocol.WrongType
    try:
        upload, received = await uploads.receive(
            upload_id,
            request.stream(),
            tenant=caller.tenant,
            offset=protocol.number(headers, "upload-offset"),
            promised=_promised(headers),
            checksum=protocol.checksum(headers),
            whole=protocol.whole(headers),
        )
    except ClientDisconnect:
        return GONE
    return Response(status_code=204, headers=_state(upload, received))


@tus.delete("/v1/uploads/{upload_id}", status_code=204, responses=problems(401, 403, 404, 412, 423, 429))
def terminate(
    upload_id: str, request: Request, context: Ctx, caller: Writer, uploads: TheUploads, tus_resumable: Resumable = None
) -> Response:
    """Forget an upload; what was made of a finished one stays."""
    protocol.check_version(request.headers)
    uploads.terminate(upload_id, tenant=caller.tenant)
    context.database.write(lambda at: audit.record(at, caller, "upload.delete", upload_id))
    return Response(status_code=204)


@router.get("/v1/uploads/{upload_id}", tags=["uploads"], responses=problems(401, 403, 404, 423, 429))
def tell(upload_id: str, caller: Reader, uploads: TheUploads) -> UploadView:
    """What became of an upload."""
    upload, received = _seen(uploads, upload_id, caller.tenant)
    return shown(upload, received=received)


router.include_router(tus)


def _announce(
    context: Context, caller: Caller, uploads: Uploads, key: str | None, about: protocol.Metadata, size: int
) -> Answer:
    def work(at: Transaction) -> Answer:
        admit = partial(require_upload, at, context.settings, caller.tenant, size)
        upload = uploads.announce(at, upload_id, tenant=caller.tenant, about=about, size=size, admit=admit)
        audit.record(at, caller, "upload.create", upload.id)
        location = f"{(context.settings.public_url or '').rstrip('/')}/v1/uploads/{upload.id}"
        return Answer(201, {"id": upload.id}, {"Location": location})

    upload_id = uploads.prepare(size)
    try:
        answer = once(context, caller, key, operation="upload.create", asked=[about.text, size], work=work)
    except UserError:
        # Of any other error the row may be there: then the sweeper looks, which asks the database.
        uploads.staging.remove(upload_id)
        raise
    if answer.body["id"] != upload_id:
        # The request was repeated.
        uploads.staging.remove(upload_id)
    return answer


def _seen(uploads: Uploads, upload_id: str, tenant: str) -> tuple[Upload, int]:
    upload = uploads.settle(uploads.get(upload_id, tenant=tenant))
    return upload, uploads.offset(upload)


def _promised(headers: Mapping[str, str]) -> int | None:
    told = headers.get("content-length", "")
    return int(told) if told.isascii() and told.isdecimal() else None


def _state(upload: Upload, received: int) -> dict[str, str]:
    state = {"Upload-Offset": str(received)}
    if received < upload.bytes:
        state["Upload-Expires"] = protocol.expires_header(upload.expires)
    return state
