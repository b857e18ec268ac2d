"""Tells a broker of queued jobs, after their transaction: a crash in between only delays the message."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import structlog

from aslconvert.workers.jobs import JobStore, Queue

PAUSE_SECONDS = 1.0
RESEND_SECONDS = 600.0
"""A job that is still queued is told of again: the broker may have lost the message."""

Send = Callable[[str, Queue], None]
"""Hands a job's id to the broker; raises OSError when that is away."""


class Outbox:
    """Sends what waits, in a thread while it is entered. Several may run: a message that comes twice does no harm."""

    def __init__(
        self, store: JobStore, send: Send, *, pause: float = PAUSE_SECONDS, resend_after: float = RESEND_SECONDS
    ) -> None:
        self._store = store
        self._send = send
        self._pause = pause
        self._resend_after = resend_after
        self._ended, self._wanted = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def wake(self) -> None:
        """There is something to send."""
        self._wanted.set()

    def send_all(self) -> int:
        """Send what waits now; how many.

        Raises:
            InfrastructureError: ``database_unavailable``.
            OSError: the broker is away; what was not sent waits on.
        """
        waiting = self._store.unsent(resend_after=self._resend_after)
        for job_id, queue in waiting:
            self._send(job_id, queue)
            # One by one, so that an outage repeats one message and not all of them.
            self._store.mark_sent([job_id])
        return len(waiting)

    def __enter__(self) -> Outbox:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        log = structlog.get_logger()
        while not self._ended.is_set():
            self._wanted.wait(self._pause)
            self._wanted.clear()
            try:
                self.send_all()
            except Exception as error:  # noqa: BLE001  broker and database may both be back at the next look
                log.warning("messages wait", reason=type(error).__name__)
