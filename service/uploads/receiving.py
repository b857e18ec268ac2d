"""Bytes of a request's body on their way to a staging file: never the body in memory, hashed as they pass."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from anyio import CancelScope, to_thread

from aslconvert.service.errors import ServiceError, TooLarge
from aslconvert.service.uploads.protocol import Checksum, ChecksumMismatch
from aslconvert.service.uploads.staging import Held

if TYPE_CHECKING:
    from hashlib import _Hash

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
        await to_thread.run_sync(held.begin)
    writer = _Writer(held, digest, checksum)
    try:
        await _pump(body, writer, most=most, stall=stall)
        if checksum is not None and not checksum.holds:
            raise ChecksumMismatch
    except BaseException:
        # Shielded: the server may be stopping, and the lock must not go before the file is in order.
        with CancelScope(shield=True):
            await to_thread.run_sync(writer.give_up)
        raise
    await to_thread.run_sync(held.keep)


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
                whole, parts, waiting = b"".join(parts), [], 0
                await to_thread.run_sync(writer.write, whole)
    except TimeoutError as error:
        raise Stalled(stall) from error
    finally:
        # Also what came before the client went away: it need not come again.
        if parts:
            with CancelScope(shield=True):
                await to_thread.run_sync(writer.write, b"".join(parts))


class _Writer:
    def __init__(self, held: Held, digest: _Hash | None, checksum: Checksum | None) -> None:
        self.held, self._digest, self._checksum = held, digest, checksum

    def write(self, block: bytes) -> None:
        before = self.held.offset
        try:
            self.held.append(block)
        finally:
            # A full disk may have taken a part of it.
            taken = memoryview(block)[: self.held.offset - before]
            for hashed in (self._digest, self._checksum):
                if hashed is not None:
                    hashed.update(taken)

    def give_up(self) -> None:
        if self._checksum is not None:
            self.held.undo()
        else:
            self.held.keep()
