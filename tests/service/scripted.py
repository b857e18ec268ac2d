"""A small real HTTP server that answers as it is told: what a real one does only when it is in trouble."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """``cut`` ends the connection after so many bytes of the body; ``body`` may be made piece by piece."""

    status: int = 200
    body: bytes | Iterator[bytes] = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Scripted:
    """``answer`` is called with every request; what was asked stands in ``asked``."""

    answer: Callable[[Asked], Answer]
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def scripted(answer: Callable[[Asked], Answer], *, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """The server while it runs."""
    told = Scripted(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            # Whoever cuts a connection has the other end's tries fail; they are what is tested.
            with contextlib.suppress(ConnectionError):
                super().handle_one_request()

        def respond(self) -> None:
            length = int(self.headers.get("content-length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, self.rfile.read(length))
            told.asked.append(asked)
            given = told.answer(asked)
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            whole = isinstance(given.body, bytes)
            if whole and "Content-Length" not in given.headers:
                self.send_header("Content-Length", str(len(given.body)))
            if not whole:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "HEAD":
                return
            if isinstance(given.body, bytes):
                self.wfile.write(given.body if given.cut is None else given.body[: given.cut])
            else:
                for piece in given.body:
                    self.wfile.write(piece)
                    self.wfile.flush()
            if given.cut is not None or not whole:
                self.close_connection = True

        do_GET = do_POST = do_PATCH = do_HEAD = do_DELETE = respond  # noqa: N815 -- the names that the base class calls

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def finish_request(self, request: socket.socket, client_address: tuple[str, int]) -> None:
            told.connections += 1
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                # Here and not at the listener: a handshake that fails must not end the server.
                if tls is None:
                    super().finish_request(request, client_address)
                    return
                with tls.wrap_socket(request, server_side=True) as taken:
                    super().finish_request(taken, client_address)

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        told.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
