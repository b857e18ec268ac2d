"""Keeps a lease alive beside the work, and says when it is lost or the job is to be cancelled."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import structlog

from aslconvert.workers.errors import LeaseLost
from aslconvert.workers.jobs import Claim, JobStore

BEATS = 4
"""Heartbeats within one lease, at least: a database that is away for half of it costs nothing."""

MOST_PAUSE = 1.0
"""Seconds: whoever cancels is answered within five, whatever the lease."""


class Heart:
    """Beats in a thread of its own while it is entered. ``lost`` and ``cancelled`` may be read at any time."""

    def __init__(self, store: JobStore, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        self._ended = threading.Event()
        self._beaten = time.monotonic()
        self._fenced_off = False
        self.cancelled = claim.job.cancel_requested
        self._thread = threading.Thread(target=self._beat, name=f"heart of {claim.job_id}", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether somebody else may hold the job: told so, or out of touch for as long as the lease lasts."""
        return self._fenced_off or time.monotonic() - self._beaten > self._claim.lease_seconds

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(min(self._claim.lease_seconds / BEATS, MOST_PAUSE)):
            begun = time.monotonic()
            try:
                self.cancelled = self._store.heartbeat(self._claim) or self.cancelled
                self._beaten = begun
            except LeaseLost:
                self._fenced_off = True
                return
            except Exception as error:  # noqa: BLE001  whatever the database says today, it may be back within the lease
                reason = type(error).__name__
                structlog.get_logger().warning("no heartbeat", job=self._claim.job_id, reason=reason)
