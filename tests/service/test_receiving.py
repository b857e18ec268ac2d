"""A request that is cancelled, or whose commit is lost, while its bytes are on their way to the disk."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aslconvert.service.uploads.protocol import Checksum
from aslconvert.service.uploads.receiving import BLOCK, receive
from aslconvert.service.uploads.staging import Held, Staging
from aslconvert.workers.errors import InternalError
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
