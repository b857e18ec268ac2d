"""Runs the app in uvicorn, with the limits that belong to the server."""

from __future__ import annotations

import os
import signal
import socket

import uvicorn

from aslconvert.service.app import create_app
from aslconvert.service.connection import BoundedProtocol
from aslconvert.service.settings import Settings
from aslconvert.workers.logs import set_up_logs
from aslconvert.workers.tracing import set_up_tracing

GRACE_SECONDS = 10
"""For which requests may go on after SIGTERM; streams of events end at once."""


def server(settings: Settings, *, host: str = "127.0.0.1", port: int = 8765) -> uvicorn.Server:
    """A server that is not started; ``run`` blocks until SIGTERM or SIGINT."""
    return _Server(
        uvicorn.Config(
            create_app(settings),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            http=BoundedProtocol,
        )
    )


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Streams would be waited for to the end of the grace, and each client comes back after its last event anyway.
        self.config.app.state.hub.close()  # type: ignore[union-attr]  # the app of `create_app`
        await super().shutdown(sockets)


def serve(settings: Settings, *, host: str = "127.0.0.1", port: int = 8765) -> bool:
    """Serve until told to stop, by SIGTERM or SIGINT; then it returns. False: it could not start.

    Raises:
        InfrastructureError, UserError: as of `set_up_tracing`.
    """
    set_up_logs()
    set_up_tracing("aslconvert-api")
    # Whatever is written from here on is this user's alone, also where the folder was made by somebody else.
    os.umask(0o077)
    for number in (signal.SIGTERM, signal.SIGINT):
        # The server heeds both, and raises them again when it has ended well: that is no failure.
        signal.signal(number, lambda *_: None)
    one = server(settings, host=host, port=port)
    one.run()
    return one.started
