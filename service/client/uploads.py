"""Sends files by tus 1.0: in pieces, from wherever the server says it has got to, the last one with the file's hash.

Pieces have no checksums: with one a request that breaks off is lost as a whole, and every byte is hashed twice by both.
"""

from __future__ import annotations

import base64
import contextlib
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aslconvert.service.client.errors import (
    ClientError,
    Conflict,
    Misuse,
    NotFound,
    Refused,
    Unreachable,
    UploadFailed,
)
from aslconvert.service.client.pieces import Pieces
from aslconvert.service.client.records import Resource, Upload
from aslconvert.service.client.retries import Retry, Tries, call, once
from aslconvert.service.client.sent import Local, Sent, glance_at
from aslconvert.service.client.steps import Pause, Reply, Request, Steps, work

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = 8 << 20
"""Bytes of the first request."""

MOST_PIECE = 256 << 20
"""Each piece waits for a disk before it is answered, so quick ones grow. Of one that breaks off what came is kept."""

QUICK_SECONDS = 2.0

POLL_SECONDS = (0.2, 2.0)
"""First and longest pause between looks at a file that is being looked into."""

Told = Callable[[int, int], None]
"""Is called with the bytes that are safe on the server and the bytes of the file."""


def upload(
    path: Path, metadata: Mapping[str, str], *, retry: Retry, sent: Sent, of: str, told: Told | None = None
) -> Steps[Resource]:
    """Send a file and wait until it has been looked into; gives what became of it.

    ``of`` names the server and the key. Where an earlier process sent the same file with the same ``metadata``, it goes
    on from there.

    Raises:
        Misuse: ``not_found``, the file cannot be read.
        UploadFailed: ``file_changed``, or the code of the intake that refused it.
        Unreachable, Refused: as of `call`.
    """
    try:
        file = yield from work(lambda: glance_at(path))
    except OSError as error:
        raise Misuse("not_found", f"'{path}' cannot be read: {error.strerror}.", hint="Name a file.") from error
    words = [of, *(f"{name}={value}" for name, value in sorted(metadata.items()))]
    known = sent.recall(*words, file=file)
    if known is not None:
        try:
            found = yield from _state(known, retry)
            if found.resource is not None:
                # It may have been deleted since: then the file is sent anew as well.
                yield from call(Request(method="GET", path=f"/v1/{found.resource.type}s/{found.resource.id}"), retry)
            if found.state not in ("refused", "expired"):
                return (yield from _through(found.id, file, words, retry=retry, sent=sent, told=told))
        except NotFound:
            pass  # It has expired there, or the server keeps its files elsewhere now: it is sent anew.
    made = yield from _create(file, metadata, retry)
    sent.remember(*words, file=file, upload=made)
    return (yield from _through(made, file, words, retry=retry, sent=sent, told=told))


def _through(
    upload_id: str, file: Local, words: list[str], *, retry: Retry, sent: Sent, told: Told | None
) -> Steps[Resource]:
    try:
        yield from _send(upload_id, file, retry=retry, told=told)
        resource = yield from _outcome(upload_id, retry)
    except UploadFailed:
        sent.forget(*words, file=file)
        raise
    sent.forget(*words, file=file)
    return resource


def _create(file: Local, metadata: Mapping[str, str], retry: Retry) -> Steps[str]:
    pairs = {**metadata, "filename": file.path.name}
    written = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in pairs.items())
    headers = {
        **TUS,
        "Upload-Length": str(file.bytes),
        "Upload-Metadata": written,
        "Idempotency-Key": uuid.uuid4().hex,
    }
    reply = yield from call(Request(method="POST", path="/v1/uploads", headers=headers), retry)
    made = reply.headers.get("location", "").rstrip("/").rpartition("/")[2]
    if not made:
        raise UploadFailed("no_location", "The server made an upload without saying where.", kind="internal")
    return made


def _send(upload_id: str, file: Local, *, retry: Retry, told: Told | None) -> Steps[None]:
    """Send what is missing. The server's offset alone counts: it is asked for at first and after every failure."""
    path = f"/v1/uploads/{upload_id}"
    tries = Tries(retry)
    offset = yield from _offset(path, retry)
    size, pieces = PIECE, Pieces(file.path)
    with ThreadPoolExecutor(1) as ahead:
        coming, at = ahead.submit(pieces.take, offset, size), offset
        while offset < file.bytes:
            if told is not None:
                told(offset, file.bytes)
            if at != offset:
                coming = ahead.submit(pieces.take, offset, size)
            piece, digest = yield from work(coming.result)
            # The next one is hashed while this one is sent.
            at = offset + piece.length
            coming = ahead.submit(pieces.take, at, size)
            if not file.unchanged() or not piece.length:
                yield from _abandon(path)
                raise UploadFailed("file_changed", f"'{file.path}' changed while it was sent.", hint="Send it again.")
            headers = {
                **TUS,
                "Content-Type": "application/offset+octet-stream",
                "Upload-Offset": str(offset),
            }
            if at == file.bytes:
                headers["Repr-Digest"] = f"sha-256=:{digest}:"
            failure: Unreachable | Refused | None = None
            reached = None
            begun = time.monotonic()
            try:
                reply = yield from once(Request(method="PATCH", path=path, headers=headers, content=piece))
                reached = _number(reply)
            except (Unreachable, Refused) as error:
                failure = error
            if isinstance(failure, Refused) and failure.code == "upload_digest":
                # What an earlier process sent was of another file, though of the same name, size and time.
                yield from _abandon(path)
                raise UploadFailed(failure.code, f"'{file.path}' is not what was begun with.", hint="Send it again.")
            if failure is None and time.monotonic() - begun < QUICK_SECONDS:
                size = min(MOST_PIECE, 2 * size)
            if failure is not None:
                size = max(PIECE, size // 2)
                # Of a conflict the offset tells: other senders, or an answer that was lost.
                yield from tries.after(failure, mended=isinstance(failure, Conflict))
            if reached is None:
                reached = yield from _offset(path, retry)
            if reached > offset:
                tries.reset()
            elif failure is None:
                raise UploadFailed("no_progress", "The server takes bytes without keeping them.", kind="internal")
            offset = reached
    if told is not None:
        told(file.bytes, file.bytes)


def _offset(path: str, retry: Retry) -> Steps[int]:
    reply = yield from call(Request(method="HEAD", path=path, headers=TUS), retry)
    offset = _number(reply)
    if offset is None:
        raise UploadFailed("no_offset", "The server does not say how much it has.", kind="internal")
    return offset


def _number(reply: Reply) -> int | None:
    told = reply.headers.get("upload-offset", "")
    return int(told) if told.isdigit() else None


def _abandon(path: str) -> Steps[None]:
    # What cannot be deleted expires.
    with contextlib.suppress(ClientError):
        yield from once(Request(method="DELETE", path=path, headers=TUS))


def _state(upload_id: str, retry: Retry) -> Steps[Upload]:
    reply = yield from call(Request(method="GET", path=f"/v1/uploads/{upload_id}"), retry)
    return Upload.model_validate_json(reply.body)


def _outcome(upload_id: str, retry: Retry) -> Steps[Resource]:
    pause, longest = POLL_SECONDS
    while True:
        found = yield from _state(upload_id, retry)
        if found.resource is not None:
            return found.resource
        if found.state in ("refused", "expired"):
            told = found.error
            if told is None:
                raise UploadFailed(f"upload_{found.state}", f"The upload is {found.state}.", hint="Send it again.")
            raise UploadFailed(told.code, told.detail, hint=told.hint, kind=told.kind, entry=told.entry)
        yield Pause(pause)
        pause = min(longest, pause * 1.5)
