"""Small files in one request: a form whose file goes to the staging folder as it comes, and is waited for."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from anyio import to_thread
from fastapi import Request, Response
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from aslconvert.service.context import Context
from aslconvert.service.errors import ProblemDetails, ServiceError, TooLarge
from aslconvert.service.idempotency import Answer, once
from aslconvert.service.keys import audit
from aslconvert.service.keys.usage import require_upload
from aslconvert.service.security.callers import Caller
from aslconvert.service.uploads import protocol, repository
from aslconvert.service.uploads.receiving import finished, receive
from aslconvert.service.uploads.records import ENDED, Upload, UploadState
from aslconvert.service.uploads.schemas import shown
from aslconvert.service.uploads.service import Uploads
from aslconvert.service.uploads.shelf import SHELVES, Kept
from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import UserError
from aslconvert.workers.jobs.ids import new_id

MOST_FIELD: Final = 1024
MOST_PARTS: Final = 8
MOST_HEADERS: Final = 8
"""Of one part of a form."""

MOST_HEADER: Final = 4096
MOST_AROUND: Final = MOST_PARTS * (MOST_FIELD + MOST_HEADER)
"""Bytes of a form beside its file."""

WAIT_SECONDS: Final = 30.0
"""For which the request waits for its file to be vetted; then it is told where to ask."""

LOOK_SECONDS: Final = 0.1


class BadForm(ServiceError):
    """The body is no form that this takes."""

    status = 400

    def __init__(self, message: str) -> None:
        super().__init__("bad_form", message, hint="Send multipart/form-data with the file in `file`.")


class Refusal(ServiceError):
    """The file was read and not taken, as ``details`` say."""

    def __init__(self, details: ProblemDetails) -> None:
        super().__init__(details.code, details.detail, hint=details.hint)
        self.kind, self.status, self.entry = details.kind, details.status, details.entry


class _Form:
    """Takes a form apart while it comes: small fields are kept, the file's bytes handed on."""

    def __init__(self, content_type: str | None) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise protocol.WrongType
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.file: list[bytes] = []
        self._parts, self._whole = 0, False
        self._name, self._field, self._value, self._disposition = "", b"", b"", b""
        self._text = b""
        self._is_file = False
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
            max_header_count=MOST_HEADERS,
            max_header_size=MOST_HEADER,
        )

    def feed(self, chunk: bytes) -> list[bytes]:
        """What of the file is in this piece of the body. Raises BadForm."""
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise BadForm("The form cannot be read.") from error
        found, self.file = self.file, []
        return found

    def close(self) -> None:
        """The body has ended. Raises BadForm where the form has not, or holds no file."""
        if not self._whole:
            raise BadForm("The form is cut short.")
        if self.filename is None:
            raise BadForm("The form has no file.")

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise BadForm(f"A form has at most {MOST_PARTS} parts.")
        self._disposition = self._text = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._name == "file"
        if self._is_file:
            if self.filename is not None:
                raise BadForm("The form has several files.")
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        elif self._name in self.fields:
            raise BadForm("The form has a field twice.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.file.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > MOST_FIELD:
            raise BadForm(f"A field has at most {MOST_FIELD} bytes.")

    def _end(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._text.decode("utf-8", "replace")

    def _finish(self) -> None:
        self._whole = True


async def upload_form(
    request: Request, *, kind: str, fields: frozenset[str], context: Context, caller: Caller, uploads: Uploads,
    key: str | None,
) -> Upload:  # fmt: skip
    """Take the form's file as an upload of ``kind``, with ``fields`` beside it, and wait until it was vetted.

    Given is the upload when the wait was over.

    Raises:
        BadForm, WrongType, BadUpload, TooLarge, QuotaExceeded, Stalled.
        Refusal: it was vetted and is not taken.
    """
    form = _Form(request.headers.get("content-type"))
    most = context.settings.form_bytes
    told = request.headers.get("content-length", "")
    coming = int(told) if told.isascii() and told.isdecimal() else 0
    if coming > most + MOST_AROUND:
        raise _too_large(most)
    if coming:
        # Before a byte comes; the file itself is a little smaller.
        check = partial(require_upload, settings=context.settings, tenant=caller.tenant, size=coming)
        await to_thread.run_sync(lambda: context.database.read(lambda at: check(at)))
    upload_id = new_id()
    with ExitStack() as stack:
        await finished(partial(uploads.staging.create, upload_id))
        held = await finished(lambda: stack.enter_context(uploads.staging.held(upload_id)))
        digest = hashlib.sha256()
        storing = False
        try:
            body, stall = _file_of(request, form, most), context.settings.upload_stall_seconds
            await receive(body, held, most=most, stall=stall, digest=digest)
            if unknown := sorted(set(form.fields) - fields):
                raise BadForm(f"There is no field {unknown[0][:64]!r}.")
            given = {name: value for name, value in form.fields.items() if value}
            about = protocol.described(kind=kind, filename=form.filename or "file", **given)
            store = partial(
                _store, context, caller, uploads, key, about,
                upload_id=upload_id, size=held.offset, digest=digest.hexdigest(),
            )  # fmt: skip
            storing = True
            answer = await finished(store)
        except BaseException as error:
            # Once it was tried to store it, its row may be there: then the sweeper looks, which asks the database.
            if not storing or isinstance(error, UserError):
                uploads.staging.remove(upload_id)
            if getattr(error, "code", "") == "upload_too_long":
                raise _too_large(most) from error
            raise
        taken = str(answer.body["id"])
        if taken != upload_id:
            # The request was repeated: its file is that of the first one.
            uploads.staging.remove(upload_id)
        else:
            uploads.digests.leave(upload_id, held.offset, digest)
    uploads.vet()
    return await _ended(uploads, taken, caller.tenant)


def _too_large(most: int) -> TooLarge:
    return TooLarge("form_too_large", f"A form's file has at most {most} bytes.", hint="Use /v1/uploads.")


async def _file_of(request: Request, form: _Form, most: int) -> AsyncIterator[bytes]:
    left = most + MOST_AROUND
    async for chunk in request.stream():
        # Also what belongs to no part, of which the parser keeps nothing.
        left -= len(chunk)
        if left < 0:
            raise _too_large(most)
        if chunk:
            for part in form.feed(chunk):
                yield part
    form.close()


def _store(
    context: Context, caller: Caller, uploads: Uploads, key: str | None, about: protocol.Metadata,
    *, upload_id: str, size: int, digest: str,
) -> Answer:  # fmt: skip
    def work(at: Transaction) -> Answer:
        repository.one_at_a_time(at, caller.tenant)
        require_upload(at, context.settings, caller.tenant, size)
        repository.add(
            at, upload_id, tenant=caller.tenant, about=about, size=size, place=uploads.staging.place,
            lifetime=context.settings.upload_seconds,
        )  # fmt: skip
        repository.change(at, upload_id, UploadState.RECEIVING, state=UploadState.VETTING)
        audit.record(at, caller, "upload.create", upload_id)
        return Answer(202, {"id": upload_id})

    asked = [about.kind, about.filename, about.name, about.architecture, digest]
    return once(context, caller, key, operation="form.create", asked=asked, work=work)


async def _ended(uploads: Uploads, upload_id: str, tenant: str) -> Upload:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        upload = await to_thread.run_sync(partial(uploads.get, upload_id, tenant=tenant))
        if upload.state is UploadState.REFUSED and upload.problem is not None:
            raise Refusal(ProblemDetails.model_validate(upload.problem))
        if upload.state in ENDED or time.monotonic() > deadline:
            return upload
        await asyncio.sleep(LOOK_SECONDS)


def answered(context: Context, outcome: Upload, show: Callable[[Kept], str]) -> Response:
    """What became of a form: the thing as ``show`` has it, 200 where it was there before; or where to ask."""
    resource_id = outcome.resource_id
    if resource_id is None:
        view = shown(outcome, received=outcome.bytes).model_dump_json()
        headers = {"Location": f"/v1/uploads/{outcome.id}", "Retry-After": "1"}
        return Response(view, status_code=202, media_type="application/json", headers=headers)
    shelf = SHELVES[outcome.kind]
    kept = context.database.read(lambda at: shelf.get(at, resource_id, tenant=outcome.tenant))
    status = 201 if kept.created >= outcome.created else 200
    headers = {"Location": f"/v1/{kept.type}s/{kept.id}"}
    return Response(show(kept), status_code=status, media_type="application/json", headers=headers)


def form_body(*fields: str) -> dict[str, Any]:
    """How a form is described in the OpenAPI document."""
    text = {"type": "string", "maxLength": 200}
    properties = {"file": {"type": "string", "format": "binary"}, **dict.fromkeys(fields, text)}
    schema = {"type": "object", "required": ["file"], "properties": properties, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
