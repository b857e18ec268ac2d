"""Who changed what, and who was turned away."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, func, insert, select

from aslconvert.service.keys.tables import audit
from aslconvert.service.security.callers import Caller
from aslconvert.workers.database import Transaction

MOST_DENIALS = 100
"""Different ones that are kept between two writes: a flood must not fill the disk. What is over is counted."""

KEEP = timedelta(days=90)
"""For which changes and denials can be looked up."""

MOST_DENIED = 200_000
"""Denials among that many of the last entries are kept: strangers can make as many as they like in ninety days."""

DONE = "done"


def record(at: Transaction, caller: Caller, action: str, target: str | None = None) -> None:
    """Note a change in the transaction that makes it; actions are ``noun.verb``."""
    at.connection.execute(
        insert(audit).values(
            at=at.wall,
            key_id=caller.key_id,
            tenant=caller.tenant,
            action=action,
            target=target,
            outcome=DONE,
            address=caller.address[:64],
        )
    )


def entries(at: Transaction, *, before: int | None, limit: int) -> Sequence[Row[Any]]:
    """The newest first."""
    statement = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(audit.c.id < before)
    return at.connection.execute(statement).all()


def trim(at: Transaction) -> None:
    """Delete what is older than `KEEP`, and denials beyond `MOST_DENIED`."""
    newest = at.connection.execute(select(func.max(audit.c.id))).scalar_one() or 0
    denied = (audit.c.outcome != DONE) & (audit.c.id <= newest - MOST_DENIED)
    at.connection.execute(delete(audit).where((audit.c.at < at.wall - KEEP) | denied))


class Denials:
    """Requests that were turned away, until somebody writes them down: none of them waits for the database.

    Those that differ in nothing but their moment make one entry, which counts them.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str | None, ...], tuple[dict[str, Any], int]] = {}
        self._over = 0
        self._lock = threading.Lock()

    def note(self, *, action: str, outcome: str, caller: Caller | None, address: str) -> None:
        """One was."""
        entry: dict[str, Any] = {
            "at": datetime.now(UTC),
            "key_id": None if caller is None else caller.key_id,
            "tenant": None if caller is None else caller.tenant,
            "action": action[:64],
            "target": None,
            "outcome": outcome[:64],
            "address": address[:64],
        }
        same = (entry["key_id"], entry["tenant"], entry["action"], entry["outcome"], entry["address"])
        with self._lock:
            if same in self._kept:
                first, count = self._kept[same]
                self._kept[same] = first, count + 1
            elif len(self._kept) < MOST_DENIALS:
                self._kept[same] = entry, 1
            else:
                self._over += 1

    def take(self) -> list[dict[str, Any]]:
        """What is to be written down."""
        with self._lock:
            found, over = self._kept, self._over
            self._kept, self._over = {}, 0
        kept = [{**entry, "target": f"{count} times" if count > 1 else None} for entry, count in found.values()]
        if over:
            kept.append({**kept[-1], "target": None, "outcome": f"{over} more"})
        return kept


def write(at: Transaction, denied: Sequence[dict[str, Any]]) -> None:
    """Write down what `Denials` kept."""
    if denied:
        at.connection.execute(insert(audit), list(denied))
