"""The clocks of leases: what they must survive, and which one a database gets.

A lease ends when its holder has been silent for its length. Reading that off the wall clock is wrong when somebody sets
the clock: forward, every live lease ends at once; backward, a dead one lives on for as long as the step.

- SQLite is one machine. CLOCK_BOOTTIME counts seconds since that machine started, sleep included, is the same for all
  its processes and cannot be set. It starts anew at each boot, so a reading goes with the boot's id: under another id
  every holder is dead.
- PostgreSQL serves several machines, which share nothing but its clock. That is a wall clock, so steps are found out:
  backward by the bound in `reaping.py` (no lease may end later than now plus its own length), forward by `StepWatch`,
  which compares it with this machine's boot clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Protocol

from sqlalchemy import ColumnElement, Float, cast, extract, func, literal


class Clock(Protocol):
    """What the store asks of time."""

    def now(self) -> ColumnElement[float]:
        """Seconds on the clock of leases, as an expression of the statement that compares or stores them."""
        ...

    def epoch(self) -> str:
        """Readings of ``now`` compare within one epoch only."""
        ...

    def local(self) -> float:
        """Seconds on a clock of this machine that nobody can set, from a start of no meaning."""
        ...

    def wall(self) -> datetime:
        """The time of day for people, in UTC; only retention of days depends on it."""
        ...


def boot_seconds() -> float:
    """Seconds since this machine started, time asleep included where the system can say so."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


@cache
def boot_id() -> str:
    """The id of this boot; empty where the system has none: there the bound on leases ends those of the last boot."""
    path = Path("/proc/sys/kernel/random/boot_id")
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class BootClock:
    """Seconds since boot, for a database that one machine uses."""

    def now(self) -> ColumnElement[float]:
        return literal(boot_seconds(), Float)

    def epoch(self) -> str:
        return boot_id()

    def local(self) -> float:
        return boot_seconds()

    def wall(self) -> datetime:
        return datetime.now(UTC)


class DatabaseClock:
    """The clock of a PostgreSQL server, for a database that several machines use."""

    def now(self) -> ColumnElement[float]:
        # Not now(), which stands still within a transaction and would date a lease back by the wait for a lock.
        return cast(extract("epoch", func.clock_timestamp()), Float(53))

    def epoch(self) -> str:
        return ""

    def local(self) -> float:
        return boot_seconds()

    def wall(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class StepWatch:
    """Finds forward steps of a clock of leases by a clock that cannot be set.

    After a step holders are given until their next heartbeats: nothing is taken from them for the length of a lease.
    """

    tolerance: float = 2.0
    _offset: float | None = None
    _quiet_until: float = float("-inf")

    def allows(self, *, shared: float, local: float, grace: float) -> bool:
        """Whether leases may be taken now, all in seconds; ``grace`` is how long a step holds them back."""
        offset = shared - local
        if self._offset is not None and offset - self._offset > self.tolerance:
            self._quiet_until = local + grace
        self._offset = offset
        return local >= self._quiet_until
