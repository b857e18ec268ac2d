"""Around every request: headers that browsers heed, and no more bytes of body than the path takes."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aslconvert.service.errors import ServiceError, answer, details_of, failure

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Set where the answer does not say otherwise."""

FILES = ("/v1/uploads", "/v1/models", "/v1/datasets")
"""Paths below which bodies are files, for which their domains have limits of their own."""

MOST_HEADERS = 32 << 10


class _BadPath(ServiceError):
    # As of any other path that leads nowhere; one database takes such characters in an id, the other does not.
    status = 404


class _HeadersTooLarge(ServiceError):
    status = 431


class SecurityHeaders:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def adding(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, adding)


class Catching:
    """Answers what no handler of errors does, inside of the others: so it has their headers and is counted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            # Of an answer that is on its way nothing can be taken back: the server ends the connection.
            if begun:
                raise
            await failure(Request(scope), error)(scope, receive, send)


class BodyLimit:
    """Refuses headers of more than `MOST_HEADERS` bytes, and bodies of more than ``most`` before they are in memory.

    Where files come in, ``most_file`` bytes are taken.
    """

    def __init__(self, app: ASGIApp, *, most: int, most_file: int) -> None:
        self._app = app
        self._most = most
        # The parts of a form around the file.
        self._most_file = most_file + most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not scope["path"].isprintable():
            refused = details_of(_BadPath("bad_path", "The path has characters that no path here has."))
            await answer(refused)(scope, receive, send)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEADERS:
            told = f"The headers have more than {MOST_HEADERS} bytes."
            refused = details_of(_HeadersTooLarge("headers_too_large", told), instance=scope["path"])
            await answer(refused)(scope, receive, send)
            return
        most = self._most_file if scope["path"].startswith(FILES) else self._most
        length = Headers(scope=scope).get("content-length", "")
        # By its length first: then nothing is read at all.
        left = -1 if length.isdecimal() and int(length) > most else most

        async def counting() -> Message:
            nonlocal left
            if left < 0:
                raise _too_large(most)
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise _too_large(most)
            return message

        await self._app(scope, counting, send)


def _too_large(most: int) -> HTTPException:
    # The framework passes this class on from where it reads a body, and no other.
    return HTTPException(413, f"A body has at most {most} bytes here.", headers={"Connection": "close"})
