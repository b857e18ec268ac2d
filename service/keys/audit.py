"""Who changed what, and who was turned away."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, insert, select

from aslconvert.service.keys.tables import audit
from aslconvert.service.security.callers import Caller
from aslconvert.workers.database import Transaction

MOST_DENIALS = 200
"""Kept between two writes: a flood must not fill the disk. What is over is counted."""


def record(at: Transaction, caller: Caller, action: str, target: str | None = None) -> None:
    """Note a change in the transaction that makes it; actions are ``noun.verb``."""
    at.connection.execute(
        insert(audit).values(
            at=at.wall,
            key_id=caller.key_id,
            tenant=caller.tenant,
            action=action,
            target=target,
            outcome="done",
            address=caller.address[:64],
        )
    )


def entries(at: Transaction, *, before: int | None, limit: int) -> Sequence[Row[Any]]:
    """The newest first."""
    statement = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(audit.c.id < before)
    return at.connection.execute(statement).all()


class Denials:
    """Requests that were turned away, until somebody writes them down: none of them waits for the database."""

    def __init__(self) -> None:
        self._kept: list[dict[str, Any]] = []
        self._over = 0
        self._lock = threading.Lock()

    def note(self, *, action: str, outcome: str, caller: Caller | None, address: str) -> None:
        """One was."""
        entry = {
            "at": datetime.now(UTC),
            "key_id": None if caller is None else caller.key_id,
            "tenant": None if caller is None else caller.tenant,
            "action": action[:64],
            "target": None,
            "outcome": outcome[:64],
            "address": address[:64],
        }
        with self._lock:
            if len(self._kept) < MOST_DENIALS:
                self._kept.append(entry)
            else:
                self._over += 1

    def take(self) -> list[dict[str, Any]]:
        """What is to be written down."""
        with self._lock:
            kept, over = self._kept, self._over
            self._kept, self._over = [], 0
        if over:
            kept.append({**kept[-1], "target": None, "outcome": f"{over} more"})
        return kept


def write(at: Transaction, denied: Sequence[dict[str, Any]]) -> None:
    """Write down what `Denials` kept."""
    if denied:
        at.connection.execute(insert(audit), list(denied))
