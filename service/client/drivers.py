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
"""Bytes of a body that httpx is given at once: it would copy what is left of a larger one with every send."""

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
    built = http.build_request(
        request.method,
        request.path,
        headers=dict(request.headers),
        params=dict(request.params) or None,
        json=request.json,
        content=request.content,
        timeout=timeout,
    )
    if request.content is not None:
        built.stream = _Sliced(request.content)
    return built


class _Sliced(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._content), SLICE):
            yield bytes(self._content[start : start + SLICE])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


def _reply(response: httpx.Response) -> Reply:
    return Reply(response.status_code, response.headers, response.content)
