"""A request that is cancelled, or whose commit is lost, while its bytes are on their way to the disk."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from aslconvert.service.context import Context
from aslconvert.service.security.callers import Caller
from aslconvert.service.security.secrets import Secrets
from aslconvert.service.settings import Settings
from aslconvert.service.uploads.forms import upload_form
from aslconvert.service.uploads.protocol import Checksum
from aslconvert.service.uploads.receiving import BLOCK, Digests, receive
from aslconvert.service.uploads.service import Uploads
from aslconvert.service.uploads.staging import Held, Staging
from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import InfrastructureError, InternalError
from aslconvert.workers.jobs.ids import new_id


class Slow(Held):
    """A disk that takes the two halves of a block with a pause between them."""

    def append(self, data: bytes) -> None:
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


def test_nothing_is_written_to_a_file_that_was_let_go(tmp_path: Path) -> None:
    path = _file(tmp_path)
    held = Held(path, os.open(path, os.O_RDWR))
    held.close()
    with pytest.raises(InternalError, match="not held"):
        held.append(b"late")
    assert path.read_bytes() == b""


@pytest.mark.parametrize("stored", [True, False])
def test_a_form_whose_commit_is_not_known_keeps_its_file(tmp_path: Path, stored: bool) -> None:
    settings = Settings(folder=tmp_path)
    about = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.npz"\r\n\r\nbytes\r\n--x--\r\n'
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]}

    async def body() -> dict[str, Any]:
        return {"type": "http.request", "body": about}

    with settings.places.opened() as (jobs, blobs):
        context = Context(settings=settings, jobs=jobs, blobs=blobs, secrets=Secrets(b"x" * 32))
        uploads = Uploads(jobs.database, settings, Staging(tmp_path / "uploads"), Digests(), lambda: None)
        write = jobs.database.write

        def lost(work: Callable[[Transaction], Any]) -> Any:
            """The connection breaks in the commit: the database may have taken it or not."""
            if stored:
                write(work)
            raise InfrastructureError("database_unavailable", "It is not known whether it took the last change.")

        jobs.database.write = lost  # type: ignore[method-assign]  # a fault in the real one
        form = upload_form(
            Request(scope, body), kind="dataset", fields=frozenset(), context=context,
            caller=Caller("key", "tenant", frozenset()), uploads=uploads, key=None,
        )  # fmt: skip
        with pytest.raises(InfrastructureError):
            asyncio.run(form)
        assert len(uploads.staging.ids()) == 1
        jobs.database.write = write  # type: ignore[method-assign]
        for upload_id in uploads.staging.ids():
            os.utime(uploads.staging.path(upload_id), (1, 1))
        uploads.sweep()
        # The sweeper asks, and removes what no row names.
        assert len(uploads.staging.ids()) == stored
