"""Shows a job's events as a run here shows its progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aslconvert.service.client import Client, Event, Job

if TYPE_CHECKING:
    from aslconvert.cli.progress import RichProgress

_NOT_FIGURES = frozenset({"done", "total", "unit", "stage", "attempt"})


class Watching:
    """Call it with events, each once and in order; ``last`` is the number of the last one."""

    def __init__(self, progress: RichProgress) -> None:
        self._progress = progress
        self.last = 0

    def __call__(self, event: Event) -> None:
        self.last = event.number
        data = event.data
        if event.kind == "stage":
            self._progress.stage(str(data.get("stage", "")))
        elif event.kind == "progress":
            figures = {
                name: float(value)
                for name, value in data.items()
                if name not in _NOT_FIGURES and isinstance(value, int | float)
            }
            done, total = float(data.get("done") or 0), float(data.get("total") or 0)
            self._progress.update(done, total, str(data.get("unit", "")), **figures)
        elif event.kind == "note":
            self._progress.note(str(data.get("text", "")))
        elif event.kind == "requeued":
            self._progress.note("The job is queued again, and goes on from its last state.")


def watch(client: Client, job_id: str, progress: RichProgress, *, timeout: float | None = None) -> Job:
    """The job when it has ended with a result. Raises as `Client.wait`."""
    return client.wait(job_id, timeout=timeout, listener=Watching(progress))


def bytes_of(progress: RichProgress) -> Callable[[int, int | None], None]:
    """Shows an upload or a download in megabytes."""
    return lambda done, total: progress.update(round(done / 1e6, 1), round((total or 0) / 1e6, 1), "MB")
