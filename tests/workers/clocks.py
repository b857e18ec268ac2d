"""A clock that a test sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Float, literal


@dataclass
class SetClock:
    """Time stands still until the test moves it; ``steady`` is what nobody can set, ``shared`` the leases' clock."""

    shared: float = 1000.0
    steady: float = 50.0
    boot: str = "boot-1"
    day: datetime = field(default_factory=lambda: datetime(2026, 1, 1, tzinfo=UTC))

    def now(self) -> ColumnElement[float]:
        return literal(self.shared, Float)

    def epoch(self) -> str:
        return self.boot

    def local(self) -> float:
        return self.steady

    def wall(self) -> datetime:
        return self.day

    def wait(self, seconds: float) -> None:
        """Time passes on all clocks."""
        self.shared += seconds
        self.steady += seconds
        self.day += timedelta(seconds=seconds)

    def step(self, seconds: float) -> None:
        """Somebody sets the server's clock."""
        self.shared += seconds
        self.day += timedelta(seconds=seconds)

    def reboot(self) -> None:
        """The machine starts anew."""
        self.boot += "'"
        self.shared = 1.0
        self.steady = 1.0
