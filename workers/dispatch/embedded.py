"""Dispatch within one process: a worker in a thread that looks into the store, woken where a job comes in."""

from __future__ import annotations

import threading
from types import TracebackType

from aslconvert.workers.worker import Worker


class Embedded:
    """Runs a worker in a thread while it is entered; leaving gives its job back."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        # The kernel ends a sandbox with the thread that started it: this one lives as long as the worker.
        self._thread = threading.Thread(target=worker.run, name=f"worker {worker.name}")

    def wake(self) -> None:
        """There is a new job."""
        self._worker.wake()

    @property
    def alive(self) -> bool:
        """Whether the worker still works."""
        return self._thread.is_alive()

    def __enter__(self) -> Embedded:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._worker.stop()
        self._thread.join()
