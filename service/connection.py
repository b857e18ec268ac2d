"""What uvicorn reads requests with: the parser in C, with a limit to what it holds of one that has not come whole."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aslconvert.service.security.middleware import MOST_HEADERS

HEADER_BYTES: Final = 2 * MOST_HEADERS
"""Twice of what the app takes, as what is over this is told in plain text."""


class BoundedProtocol(HttpToolsProtocol):
    """Ends a connection with 400 once a head, a trailer or the frame of a chunk has more than `HEADER_BYTES`.

    The parser hands on a header once its line has ended, and trailers as headers: neither has a limit of its own.
    """

    _unread = 0
    """Bytes since the parser last had something whole."""

    _headers_size = 0

    def data_received(self, data: bytes) -> None:
        """More bytes of the connection."""
        self._whole = False
        super().data_received(data)
        self._unread = 0 if self._whole else self._unread + len(data)
        if self._unread > HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._headers_size = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come, or a trailer. What is raised here is told as 400."""
        self._headers_size += len(name) + len(value)
        if self._headers_size > HEADER_BYTES:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has come."""
        self._whole = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Bytes of the body."""
        self._whole = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come."""
        self._whole = True
        super().on_message_complete()
