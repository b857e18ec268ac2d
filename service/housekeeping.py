"""What is done beside requests: writing down uses and denials, expiring jobs, collecting what nobody holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

import structlog
from sqlalchemy import delete

from aslconvert.service.context import Context
from aslconvert.service.keys import audit, service
from aslconvert.service.keys.tables import request_keys
from aslconvert.service.security.callers import LastUses
from aslconvert.workers.database import Transaction

WRITE_SECONDS = 2.0
CLEAN_SECONDS = 300.0
KEEP_ANSWERS = timedelta(days=1)
"""For which a repeated request gets the answer of the first."""


class Housekeeping:
    """Runs in a thread while it is entered. Several processes may do so: every step is one that may be done twice."""

    def __init__(self, context: Context, last_uses: LastUses, denials: audit.Denials) -> None:
        self._context, self._last_uses, self._denials = context, last_uses, denials
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def __enter__(self) -> Housekeeping:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._guarded(self.write_down)

    def write_down(self) -> None:
        """Uses of keys and denied requests of the last seconds."""
        seen, denied = self._last_uses.take(), self._denials.take()
        if not seen and not denied:
            return

        def work(at: Transaction) -> None:
            service.note_uses(at, seen)
            audit.write(at, denied)

        self._context.database.write(work)

    def clean(self) -> None:
        """Expire jobs, answers and the audit, collect blobs that nobody holds."""
        context = self._context
        keep = timedelta(days=context.settings.retention_days)
        while context.jobs.expire(keep=keep) and not self._ended.is_set():
            pass
        old = request_keys.c.created
        context.database.write(
            lambda at: at.connection.execute(delete(request_keys).where(old < at.wall - KEEP_ANSWERS))
        )
        context.database.write(audit.trim)
        context.blobs.collect()
        context.blobs.sweep()

    def _run(self) -> None:
        cleaned = time.monotonic() - CLEAN_SECONDS
        while not self._ended.wait(WRITE_SECONDS):
            self._guarded(self.write_down)
            if time.monotonic() - cleaned >= CLEAN_SECONDS:
                cleaned = time.monotonic()
                self._guarded(self.clean)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  it must go on, whatever the database says today
            structlog.get_logger().warning("housekeeping waits", reason=type(error).__name__)
