"""Shows a run's progress on standard error: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_SECONDS = 10.0
"""Least time between two progress lines where nobody watches a terminal."""


class RichProgress:
    """A `converter.progress.Progress` for people; use it as a context manager."""

    def __init__(self, *, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._last_line = 0.0
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[counted]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[figures]}"),
                console=self._console,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            if kind is None:
                self._finish_task(self._bar)
            self._bar.stop()

    def stage(self, name: str) -> None:
        """Close the running stage and open ``name``."""
        self._stage = name
        self._last_line = time.monotonic()
        if self._bar is None:
            self._print(name)
            return
        self._finish_task(self._bar)
        self._task = self._bar.add_task(escape(name), total=None, counted="", figures="")

    def update(self, done: float, total: float, unit: str, **figures: float) -> None:
        """Show ``done`` of ``total`` and the named figures."""
        counted = f"{_short(done)}/{_short(total)} {unit}"
        shown = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        if self._bar is None:
            now = time.monotonic()
            if now - self._last_line >= LOG_SECONDS:
                self._last_line = now
                self._print(f"{self._stage}: {counted}  {shown}".rstrip())
            return
        if self._task is None:
            self._task = self._bar.add_task("", total=None, counted="", figures="")
        self._bar.update(self._task, completed=done, total=total or None, counted=escape(counted), figures=shown)

    def note(self, text: str) -> None:
        """Print ``text`` above the bar."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(escape(text), soft_wrap=True, highlight=False)

    def _finish_task(self, bar: Progress) -> None:
        if self._task is None:
            return
        task = next(task for task in bar.tasks if task.id == self._task)
        end = task.total if task.total is not None else 1.0
        bar.update(self._task, completed=end, total=end)
        self._task = None


def _short(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"
