"""Fetches files so that a name stands for the whole and right bytes: resumed, checked, renamed at the end."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from aslconvert.service.client.errors import DamagedDownload, Misuse, Refused, Unreachable
from aslconvert.service.client.retries import Retry, Tries, refused, unreachable
from aslconvert.service.client.sent import hash_of
from aslconvert.service.client.steps import Close, Open, Read, Request, Steps, Stream, work

CHUNK = 1 << 20
IDENTITY = {"Accept-Encoding": "identity"}
"""Ranges and digests are of the bytes themselves, not of a compressed form."""

Told = Callable[[int, int | None], None]
"""Is called with the bytes on disk and the bytes of the file, if they are known."""

_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]+):")
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


@dataclass
class _Part:
    """What there is of a file, open for more."""

    file: BinaryIO
    size: int
    digest: Any  # hashlib names no type for it


def download(
    path: str, target: Path, *, retry: Retry, sha256: str | None = None, told: Told | None = None
) -> Steps[Path]:
    """Fetch ``path`` to the file ``target``, going on with what an earlier try, of another process too, has left.

    ``sha256`` is what its hash must be; without one the server's Repr-Digest decides. A target that has this hash is
    left as it is.

    Raises:
        DamagedDownload: the bytes are others, twice.
        OSError: the target cannot be written.
        Unreachable, Refused: when trying again does not help, or did not within the patience.
    """
    if sha256 is not None and (yield from work(partial(_hash_is, target, sha256))):
        return target
    yield from work(partial(target.parent.mkdir, parents=True, exist_ok=True))
    # Named after the hash where it is known: what was left of another file is never gone on with.
    part = target.with_name(f".{target.name}.{(sha256 or 'file')[:16]}.part")
    if sha256 is None:
        yield from work(partial(part.unlink, missing_ok=True))
    wrong = yield from _into(path, part, target, retry=retry, sha256=sha256, told=told)
    if wrong is not None:
        # Once more from the start: what an earlier process left may have been damaged on this disk.
        wrong = yield from _into(path, part, target, retry=retry, sha256=sha256, told=told)
    if wrong is not None:
        raise DamagedDownload("damaged_download", f"'{target.name}' came damaged twice: {wrong}.")
    return target


def _into(
    path: str, part: Path, target: Path, *, retry: Retry, sha256: str | None, told: Told | None
) -> Steps[str | None]:
    """Fetch once and rename; gives what is wrong with the bytes, if anything."""
    found, promised = yield from _fetch(path, part, retry=retry, sha256=sha256, told=told)
    if found == promised:
        yield from work(partial(_settle, part, target))
        return None
    yield from work(partial(part.unlink, missing_ok=True))
    if promised is None:
        raise DamagedDownload("no_digest", f"The server does not say what '{target.name}' has to be.")
    return f"its hash is {found} and not {promised}"


def _fetch(
    path: str, part: Path, *, retry: Retry, sha256: str | None, told: Told | None
) -> Steps[tuple[str, str | None]]:
    """Bring ``part`` to its end; gives its hash, and what it has to be as far as anybody says."""
    tries = Tries(retry)
    promised = sha256
    held = yield from work(partial(_resume, part))
    with held.file:
        while True:
            before = held.size
            try:
                promised = (yield from _append(path, held, sha256=sha256, told=told)) or promised
                yield from work(partial(_sync, held.file))
                return held.digest.hexdigest(), promised
            except httpx.TransportError as error:
                failure: Unreachable | Misuse | Refused = unreachable(error)
            except Refused as error:
                failure = error
            if held.size > before:
                tries.reset()
            yield from tries.after(failure)


def _append(path: str, held: _Part, *, sha256: str | None, told: Told | None) -> Steps[str | None]:
    """One request, from where ``held`` ends; gives the hash that the server promises for the whole."""
    headers = dict(IDENTITY)
    if held.size:
        headers["Range"] = f"bytes={held.size}-"
    stream: Stream = yield Open(Request(method="GET", path=path, headers=headers))
    if stream.status == 416:
        # There is nothing after what is held: it is whole, or it is longer than the file, which its hash will tell.
        yield Close(stream)
        return _promise(stream.headers)
    if stream.status >= 400:
        body = yield Read(stream)
        yield Close(stream)
        raise refused(stream.status, stream.headers, body)
    start = 0
    if stream.status == 206:
        match = _RANGE.match(stream.headers.get("content-range", ""))
        start = int(match[1]) if match else -1
    promised = _promise(stream.headers)
    changed = sha256 is None and held.size > 0 and start > 0 and promised is None
    if start != held.size or changed:
        if held.size == 0:
            raise DamagedDownload("bad_range", "The server gave a part where the whole was asked for.")
        yield from work(partial(_start_over, held))
        if start != 0:
            yield Close(stream)
            return (yield from _append(path, held, sha256=sha256, told=told))
    length = stream.headers.get("content-length", "")
    total = held.size + int(length) if length.isdigit() else None
    while True:
        chunk: bytes = yield Read(stream)
        if not chunk:
            break
        yield from work(partial(_keep, held, chunk))
        if told is not None:
            told(held.size, total)
    yield Close(stream)
    return promised


def _promise(headers: Mapping[str, str]) -> str | None:
    match = _DIGEST.search(headers.get("repr-digest", ""))
    if match is None:
        return None
    try:
        return base64.b64decode(match[1], validate=True).hex()
    except (binascii.Error, ValueError):
        return None


def _resume(part: Path) -> _Part:
    file = part.open("a+b")
    file.seek(0)
    digest = hashlib.sha256()
    size = 0
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return _Part(file, size, digest)


def _start_over(held: _Part) -> None:
    held.file.truncate(0)
    held.size = 0
    held.digest = hashlib.sha256()


def _keep(held: _Part, chunk: bytes) -> None:
    held.file.write(chunk)
    held.digest.update(chunk)
    held.size += len(chunk)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _hash_is(path: Path, sha256: str) -> bool:
    return path.is_file() and hash_of(path) == sha256


def _settle(part: Path, target: Path) -> None:
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
