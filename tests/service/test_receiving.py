"""Requests that are cancelled, whose commit is lost, or that bring too much, on their way to the disk."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from aslconvert.service.context import Context
from aslconvert.service.errors import TooLarge
from aslconvert.service.security.callers import Caller
from aslconvert.service.security.secrets import Secrets
from aslconvert.service.settings import Settings
from aslconvert.service.uploads.endpoints import _announce
from aslconvert.service.uploads.forms import BadForm, upload_form
from aslconvert.service.uploads.protocol import Checksum, Metadata
from aslconvert.service.uploads.receiving import BLOCK, Digests, receive
from aslconvert.service.uploads.records import Upload
from aslconvert.service.uploads.service import Uploads
from aslconvert.service.uploads.staging import Held, Staging
from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import InfrastructureError, InternalError
from aslconvert.workers.jobs.ids import new_id


class Slow(Held):
    """A disk that takes the two halves of a block with a pause between them."""

    def append(self, *parts: bytes) -> None:
        data = b"".join(parts)
        super().append(data[: len(data) // 2])
        time.sleep(0.3)
        super().append(data[len(data) // 2 :])


async def _body(block: bytes) -> AsyncIterator[bytes]:
    yield block
    await asyncio.sleep(60)


def _file(folder: Path) -> Path:
    staging, upload_id = Staging(folder), new_id()
    staging.create(upload_id)
    return staging.path(upload_id)


@pytest.mark.parametrize("promised", [False, True])
def test_what_is_cancelled_in_the_middle_of_a_write_ends_after_it(tmp_path: Path, promised: bool) -> None:
    path, block = _file(tmp_path), os.urandom(BLOCK)
    held = Slow(path, os.open(path, os.O_RDWR))

    async def cancelled() -> None:
        checksum = Checksum(b"none") if promised else None
        task = asyncio.ensure_future(
            receive(_body(block), held, most=2 * BLOCK, stall=30, digest=None, checksum=checksum)
        )
        while held.offset == 0:
            await asyncio.sleep(0.01)
        # As the server does that has waited long enough.
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kept = held.offset
        held.close()
        await asyncio.sleep(0.5)
        assert kept == held.offset == (0 if promised else BLOCK)

    asyncio.run(cancelled())
    assert path.read_bytes() == (b"" if promised else block)
    assert not path.with_suffix(".mark").exists()


class Full(Held):
    """A disk that has room for a block and a half."""

    def append(self, *parts: bytes) -> None:
        data = b"".join(parts)
        left = BLOCK * 3 // 2 - self.offset
        super().append(data[:left])
        if len(data) > left:
            raise InfrastructureError("disk_full", "There is no room.")


def test_what_a_full_disk_took_is_what_was_hashed(tmp_path: Path) -> None:
    path = _file(tmp_path)
    blocks = [os.urandom(BLOCK) for _ in range(4)]
    held, digest = Full(path, os.open(path, os.O_RDWR)), hashlib.sha256()

    async def body() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block[: BLOCK // 3]
            yield block[BLOCK // 3 :]

    with pytest.raises(InfrastructureError, match="no room"):
        asyncio.run(receive(body(), held, most=8 * BLOCK, stall=30, digest=digest))
    held.close()
    assert path.read_bytes() == b"".join(blocks)[: BLOCK * 3 // 2]
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_many_small_parts_are_written_as_they_came(tmp_path: Path) -> None:
    path = _file(tmp_path)
    parts = [os.urandom(n % 7) for n in range(500)]
    held = Held(path, os.open(path, os.O_RDWR))
    held.append(*parts)
    held.append(*parts)
    held.close()
    assert path.read_bytes() == b"".join(parts) * 2


def test_nothing_is_written_to_a_file_that_was_let_go(tmp_path: Path) -> None:
    path = _file(tmp_path)
    held = Held(path, os.open(path, os.O_RDWR))
    held.close()
    with pytest.raises(InternalError, match="not held"):
        held.append(b"late")
    assert path.read_bytes() == b""


class Asked:
    """The stores without a server, and a form that is sent to them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(folder=folder, **settings)
        self.stack = ExitStack()
        jobs, blobs = self.stack.enter_context(self.settings.places.opened())
        self.database = jobs.database
        self.context = Context(settings=self.settings, jobs=jobs, blobs=blobs, secrets=Secrets(b"x" * 32))
        self.uploads = Uploads(self.database, self.settings, Staging(folder / "uploads"), Digests(), lambda: None)
        self.caller = Caller("key", "tenant", frozenset())

    def form(self, *pieces: bytes) -> Upload:
        left = list(pieces)

        async def body() -> dict[str, Any]:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]}
        return asyncio.run(
            upload_form(
                Request(scope, body), kind="dataset", fields=frozenset(), context=self.context, caller=self.caller,
                uploads=self.uploads, key=None,
            )
        )  # fmt: skip


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    made = Asked(tmp_path, form_bytes=1000, public_url="https://ours.example/")
    with made.stack:
        yield made


FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\nbytes\r\n--x--\r\n'


@pytest.mark.parametrize("stored", [True, False])
def test_a_form_whose_commit_is_not_known_keeps_its_file(asked: Asked, stored: bool) -> None:
    write = asked.database.write

    def lost(work: Callable[[Transaction], Any]) -> Any:
        """The connection breaks in the commit: the database may have taken it or not."""
        if stored:
            write(work)
        raise InfrastructureError("database_unavailable", "It is not known whether it took the last change.")

    asked.database.write = lost  # type: ignore[method-assign]  # a fault in the real one
    with pytest.raises(InfrastructureError):
        asked.form(FORM)
    asked.database.write = write  # type: ignore[method-assign]
    staging = asked.uploads.staging
    assert len(staging.ids()) == 1
    os.utime(staging.path(staging.ids()[0]), (1, 1))
    asked.uploads.sweep()
    # The sweeper asks, and removes what no row names.
    assert len(staging.ids()) == stored


def test_what_belongs_to_no_part_of_a_form_counts_too(asked: Asked) -> None:
    with pytest.raises(TooLarge) as refused:
        asked.form(FORM, *[b"after the end" * 1000] * 20)
    assert refused.value.code == "form_too_large"
    assert asked.uploads.staging.ids() == []


@pytest.mark.parametrize("headers", [b"a: b\r\n" * 20, b"a: " + b"b" * 5000 + b"\r\n"])
def test_headers_of_a_part_are_few_and_short(asked: Asked, headers: bytes) -> None:
    with pytest.raises(BadForm):
        asked.form(FORM.replace(b"--x\r\n", b"--x\r\n" + headers, 1))


def test_an_upload_is_at_the_public_address(asked: Asked) -> None:
    about = Metadata("dataset", "a.npz")
    answer = _announce(asked.context, asked.caller, asked.uploads, None, about, 10)
    assert answer.headers["Location"] == f"https://ours.example/v1/uploads/{answer.body['id']}"
