"""Runs the app in uvicorn, with the limits that belong to the server."""

from __future__ import annotations

import uvicorn

from aslconvert.service.app import create_app
from aslconvert.service.settings import Settings
from aslconvert.workers.logs import set_up_logs

HEADER_BYTES = 32 << 10
GRACE_SECONDS = 10
"""For which requests may go on after SIGTERM; streams of events end at once."""


def server(settings: Settings, *, host: str = "127.0.0.1", port: int = 8765) -> uvicorn.Server:
    """A server that is not started; ``run`` blocks until SIGTERM or SIGINT."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            h11_max_incomplete_event_size=HEADER_BYTES,
            http="h11",
        )
    )


def serve(settings: Settings, *, host: str = "127.0.0.1", port: int = 8765) -> None:
    """Serve until told to stop."""
    set_up_logs()
    server(settings, host=host, port=port).run()
