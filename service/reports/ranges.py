"""A stored blob as an answer: whole, a range of it (RFC 9110), or its head alone."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aslconvert.service.errors import ServiceError
from aslconvert.workers.storage import Blobs
from aslconvert.workers.storage.base import CHUNK

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_MOST_DIGITS = 18


class _BadRange(ServiceError):
    status = 416


def answer(
    blobs: Blobs, request: Request, *, sha256: str, size: int, media_type: str, headers: dict[str, str]
) -> Response:
    """The blob, as the request's method, Range and conditions ask for it. ETag and Repr-Digest are those of the whole.

    Raises:
        ServiceError: ``bad_range`` (416).
        BlobNotFound, InfrastructureError: it cannot be read.
    """
    tag = f'"{sha256}"'
    told = {
        "ETag": tag,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        **headers,
    }
    if _matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=told)
    wanted = _range(request, size, tag)
    start, end = wanted or (0, size)
    if wanted is not None:
        told["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    told["Content-Length"] = str(end - start)
    status = 200 if wanted is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=told, media_type=media_type)
    if wanted is None:
        # Checked as it is read: bytes that were damaged end the connection before the last of them.
        return StreamingResponse(_whole(blobs, sha256), headers=told, media_type=media_type)
    part = blobs.store.read_range(sha256, start, end - start)
    return StreamingResponse(part, status_code=status, headers=told, media_type=media_type)


def attachment(name: str) -> str:
    """A Content-Disposition that has it saved under this name, whatever characters that has."""
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "_" for char in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _whole(blobs: Blobs, sha256: str) -> Iterator[bytes]:
    with blobs.store.open(sha256) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _matches(asked: str | None, tag: str) -> bool:
    if asked is None:
        return False
    return asked.strip() == "*" or tag in [one.strip().removeprefix("W/") for one in asked.split(",")]


def _range(request: Request, size: int, tag: str) -> tuple[int, int] | None:
    """Start and end of the one range that is asked for; of several, as of what cannot be read, the whole is given."""
    asked = request.headers.get("range")
    condition = request.headers.get("if-range")
    if asked is None or (condition is not None and condition.strip() != tag):
        return None
    match = _RANGE.fullmatch(asked.strip())
    if match is None or match.groups() == ("", "") or max(map(len, match.groups())) > _MOST_DIGITS:
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise _BadRange(
            "bad_range", f"There are {size} bytes, and none of them in {asked[:40]}.",
            headers={"Content-Range": f"bytes */{size}"},
        )  # fmt: skip
    return start, end
