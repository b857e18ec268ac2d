"""Bytes of a request's body on their way to a staging file: never the body in memory, hashed as they pass."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anyio import CancelScope, to_thread

from aslconvert.service.errors import ServiceError, TooLarge
from aslconvert.service.uploads.protocol import Checksum, ChecksumMismatch
from aslconvert.service.uploads.staging import Held

if TYPE_CHECKING:
    from hashlib import _Hash

Result = TypeVar("Result")

BLOCK: Final = 1 << 20
"""Bytes that are collected before they are written, one call of a thread for each."""

MOST_DIGESTS: Final = 256


class Stalled(ServiceError):
    """No byte came for too long; what came before is kept."""

    status = 408

    def __init__(self, seconds: float) -> None:
        super().__init__("upload_stalled", f"No byte came for {seconds:.0f} s.", hint="Go on from the offset.")


class TooMuchSent(TooLarge):
    """More bytes than the upload was to have."""

    def __init__(self, most: int) -> None:
        super().__init__("upload_too_long", f"The upload was announced with {most} bytes; these are more.")


class Digests:
    """Hashes of uploads so far, so that a finished one need not be read again; lost with the process, which is no harm.

    Safe for threads. A hash counts only at the offset that it was left at.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, _Hash]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, upload_id: str, offset: int) -> _Hash | None:
        """The hash of the first ``offset`` bytes, if it is known."""
        with self._lock:
            at, found = self._known.pop(upload_id, (0, hashlib.sha256()))
        return found if at == offset else None

    def leave(self, upload_id: str, offset: int, found: _Hash | None) -> None:
        """What it is now."""
        if found is None:
            return
        with self._lock:
            self._known[upload_id] = (offset, found)
            while len(self._known) > MOST_DIGESTS:
                self._known.popitem(last=False)


async def finished(work: Callable[[], Result]) -> Result:
    """What ``work`` gives, in a thread; a request that is cancelled meanwhile ends only once the thread has."""
    return await unbroken(to_thread.run_sync(work))


async def unbroken(work: Coroutine[Any, Any, Result]) -> Result:
    """What ``work`` gives; a request that is cancelled meanwhile ends only once it has.

    The framework's shield does not hold off the server's own cancelling when it stops.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at, so that nobody complains of it
        raise cancelled
    return task.result()


async def receive(
    body: AsyncIterator[bytes],
    held: Held,
    *,
    most: int,
    stall: float,
    digest: _Hash | None,
    checksum: Checksum | None = None,
) -> None:
    """Append a body to a file that then has at most ``most`` bytes, and bring it to the disk.

    With a checksum all of it is kept or nothing; without, whatever came before an error is, and ``digest`` has seen it.

    Raises:
        TooMuchSent, ChecksumMismatch, Stalled.
        InfrastructureError: ``disk_full``, ``storage_unavailable``.
        ClientDisconnect: of the framework, when the client has gone.
    """
    if checksum is not None:
        await finished(held.begin)
    writer = _Writer(held, digest, checksum)
    try:
        await _pump(body, writer, most=most, stall=stall)
        if checksum is not None and not checksum.holds:
            raise ChecksumMismatch
    except BaseException:
        # The server may be stopping, and the lock must not go before the file is in order.
        await finished(writer.give_up)
        raise
    await finished(held.keep)


async def _pump(body: AsyncIterator[bytes], writer: _Writer, *, most: int, stall: float) -> None:
    left = most - writer.held.offset
    parts: list[bytes] = []
    waiting = 0
    try:
        while True:
            async with asyncio.timeout(stall):
                part = await anext(body, None)
            if part is None:
                return
            left -= len(part)
            if left < 0:
                raise TooMuchSent(most)
            parts.append(part)
            waiting += len(part)
            if waiting >= BLOCK:
                whole, parts, waiting = parts, [], 0
                await unbroken(writer.add(whole))
    except TimeoutError as error:
        raise Stalled(stall) from error
    finally:
        # Also what came before the client went away: it need not come again.
        await unbroken(writer.end(parts))


class _Writer:
    """Writes a block while the next one comes in and the one before it is hashed: at most three are in memory.

    ``add`` and ``end`` are not to be cancelled: hashes and file would part.
    """

    def __init__(self, held: Held, digest: _Hash | None, checksum: Checksum | None) -> None:
        self.held, self._checksum = held, checksum
        self._hashes = [one for one in (digest, checksum) if one is not None]
        self._writing: asyncio.Task[tuple[list[bytes], Exception | None]] | None = None
        self._hashing: list[asyncio.Task[None]] = []

    async def add(self, parts: list[bytes]) -> None:
        """Write a block; raises what went wrong with the one before it."""
        await self._written()
        self._writing = asyncio.ensure_future(to_thread.run_sync(self._write, parts))

    async def end(self, parts: list[bytes]) -> None:
        """Write the last block and wait for all of them."""
        try:
            await self._written()
            if parts:
                await self.add(parts)
                await self._written()
        finally:
            await asyncio.gather(*self._hashing)

    async def _written(self) -> None:
        if self._writing is None:
            return
        (taken, error), self._writing = await self._writing, None
        await asyncio.gather(*self._hashing)
        self._hashing = [asyncio.ensure_future(to_thread.run_sync(_update, one, taken)) for one in self._hashes]
        if error is not None:
            raise error

    def _write(self, parts: list[bytes]) -> tuple[list[bytes], Exception | None]:
        before = self.held.offset
        try:
            self.held.append(*parts)
        except Exception as error:  # noqa: BLE001  raised again where it is waited for
            # A full disk may have taken a part of it.
            return [b"".join(parts)[: self.held.offset - before]], error
        return parts, None

    def give_up(self) -> None:
        if self._checksum is not None:
            self.held.undo()
        else:
            self.held.keep()


def _update(hashed: _Hash | Checksum, parts: list[bytes]) -> None:
    for part in parts:
        hashed.update(part)
