"""How a long run tells what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listener of one run; a call must return quickly and never raise."""

    def stage(self, name: str) -> None:
        """A new stage begins, and with it a new count."""

    def update(self, done: float, total: float, unit: str, **figures: float) -> None:
        """``done`` of ``total`` units of the current stage; ``figures`` are named values such as ``loss``."""

    def note(self, text: str) -> None:
        """One line the user should read, such as a choice made on their behalf."""


class SilentProgress:
    """A listener that drops everything."""

    def stage(self, name: str) -> None:
        """Drop it."""

    def update(self, done: float, total: float, unit: str, **figures: float) -> None:
        """Drop it."""

    def note(self, text: str) -> None:
        """Drop it."""
