"""Carries out steps with httpx: one driver that blocks, and one that awaits."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpx

from aslconvert.service.client.steps import (
    Close,
    Emit,
    FilePart,
    Open,
    Pause,
    Read,
    Reply,
    Request,
    Run,
    Send,
    Steps,
    Stream,
    Work,
)

T = TypeVar("T")
Listener = Callable[[Any], None]

SLICE = 256 << 10
"""Bytes of a file that are read and sent at once."""

FAULTS = (httpx.TransportError, OSError)
"""What the steps themselves may have an answer to; all else ends them."""


@dataclass
class _Held:
    """A response that is read piece by piece."""

    response: httpx.Response
    pieces: Iterator[bytes]


@dataclass
class _AsyncHeld:
    response: httpx.Response
    pieces: AsyncIterator[bytes]


class Driver:
    """Does effects one after the other in the caller's thread."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def run(self, steps: Steps[T], listener: Listener | None = None) -> T:
        """What the steps return; ``listener`` is called with what they emit."""
        run = Run(steps)
        for value in self._emitted(run):
            if listener is not None:
                listener(value)
        return run.result

    def iterate(self, steps: Steps[Any]) -> Generator[Any, None, None]:
        """What the steps emit."""
        return self._emitted(Run(steps))

    def _emitted(self, run: Run[Any]) -> Generator[Any, None, None]:
        with ExitStack() as streams:
            streams.callback(run.close)
            effect = run.advance()
            while effect is not None:
                if isinstance(effect, Emit):
                    yield effect.value
                    effect = run.advance()
                    continue
                try:
                    answer = self._do(effect, streams)
                except FAULTS as error:
                    effect = run.advance(error=error)
                else:
                    effect = run.advance(answer)

    def _do(self, effect: object, streams: ExitStack) -> Any:
        match effect:
            case Send(request):
                return _reply(self._http.send(_built(self._http, request)))
            case Open(request):
                response = self._http.send(_built(self._http, request), stream=True)
                streams.callback(response.close)
                return Stream(response.status_code, response.headers, _Held(response, response.iter_bytes()))
            case Read(Stream(handle=_Held(pieces=pieces))):
                return next(pieces, b"")
            case Close(Stream(handle=_Held(response=response))):
                return response.close()
            case Pause(seconds):
                return time.sleep(seconds)
            case Work(function):
                return function()
        raise TypeError(f"{effect!r} is no effect of this driver")


class AsyncDriver:
    """Does effects one after the other without holding up other tasks."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def run(self, steps: Steps[T], listener: Listener | None = None) -> T:
        """What the steps return; ``listener`` is called with what they emit."""
        run = Run(steps)
        async with aclosing(self._emitted(run)) as emitted:
            async for value in emitted:
                if listener is not None:
                    listener(value)
        return run.result

    def iterate(self, steps: Steps[Any]) -> AsyncGenerator[Any, None]:
        """What the steps emit."""
        return self._emitted(Run(steps))

    async def _emitted(self, run: Run[Any]) -> AsyncGenerator[Any, None]:
        async with AsyncExitStack() as streams:
            streams.callback(run.close)
            effect = run.advance()
            while effect is not None:
                if isinstance(effect, Emit):
                    yield effect.value
                    effect = run.advance()
                    continue
                try:
                    answer = await self._do(effect, streams)
                except FAULTS as error:
                    effect = run.advance(error=error)
                else:
                    effect = run.advance(answer)

    async def _do(self, effect: object, streams: AsyncExitStack) -> Any:
        match effect:
            case Send(request):
                return _reply(await self._http.send(_built(self._http, request)))
            case Open(request):
                response = await self._http.send(_built(self._http, request), stream=True)
                streams.push_async_callback(response.aclose)
                return Stream(response.status_code, response.headers, _AsyncHeld(response, response.aiter_bytes()))
            case Read(Stream(handle=_AsyncHeld(pieces=pieces))):
                return await anext(pieces, b"")
            case Close(Stream(handle=_AsyncHeld(response=response))):
                return await response.aclose()
            case Pause(seconds):
                return await anyio.sleep(seconds)
            case Work(function):
                return await anyio.to_thread.run_sync(function)
        raise TypeError(f"{effect!r} is no effect of this driver")


def _built(http: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    timeout = http.timeout
    if request.read_seconds is not None:
        timeout = httpx.Timeout(
            connect=timeout.connect, read=request.read_seconds, write=timeout.write, pool=timeout.pool
        )
    headers = dict(request.headers)
    if request.content is not None:
        headers["Content-Length"] = str(request.content.length)
    built = http.build_request(
        request.method,
        request.path,
        headers=headers,
        params=dict(request.params) or None,
        json=request.json,
        timeout=timeout,
    )
    if request.content is not None:
        built.stream = _Sliced(request.content)
    return built


class _Sliced(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A part of a file as a body; where it ends too early so does the request, which its length then gives away."""

    def __init__(self, part: FilePart) -> None:
        self._part = part

    def __iter__(self) -> Iterator[bytes]:
        left = self._part.length
        with self._part.path.open("rb", buffering=0) as file:
            file.seek(self._part.start)
            while left > 0 and (read := file.read(min(SLICE, left))):
                left -= len(read)
                yield read

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = iter(self)
        while read := await anyio.to_thread.run_sync(next, parts, b""):
            yield read


def _reply(response: httpx.Response) -> Reply:
    return Reply(response.status_code, response.headers, response.content)
