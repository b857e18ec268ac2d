"""Sends what is due: a message for each ended job that somebody wants to hear of, until it is taken or given up.

The outbox is a row that was entered with its job. Its message is due once the job has ended, whoever ended it, so that
neither the worker's death nor this process's loses it. A message that was sent when the process died is sent again:
receivers know it by its ``id``.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpcore
import structlog
from sqlalchemy import Row, select, update

from aslconvert.service.context import Context
from aslconvert.service.jobs import repository
from aslconvert.service.jobs.tables import webhooks
from aslconvert.service.jobs.telling import told
from aslconvert.service.webhooks.guard import GuardedBackend, NotAllowed
from aslconvert.service.webhooks.signing import HEADER, signature
from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import JobNotFound
from aslconvert.workers.jobs.tables import jobs

WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given_up"
POLL_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0
LEASE_SECONDS = 60.0
"""For which a message that is being sent is left alone by other processes; more than all timeouts of a try."""

AT_ONCE = 8
MOST_TRIES = 14
MOST_PAUSE_SECONDS = 6 * 3600.0
"""With 10 s at first and twice as long each time, the last try is a day after the first."""


class Delivery:
    """Sends in threads while it is entered."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        private = context.settings.webhook_private
        self._pool = httpcore.ConnectionPool(
            network_backend=GuardedBackend(private=private), max_keepalive_connections=0, http2=False
        )

    def __enter__(self) -> Delivery:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._pool.close()

    def _run(self) -> None:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook") as pool:
            while not self._ended.wait(POLL_SECONDS):
                try:
                    due = self._context.database.read(_due)
                    if due:
                        list(pool.map(self._deliver, due))
                except Exception as error:  # noqa: BLE001  it must go on, whatever the database says today
                    structlog.get_logger().warning("webhooks wait", reason=type(error).__name__)

    def _deliver(self, row: Row[Any]) -> None:
        database = self._context.database
        if self._ended.is_set() or not database.write(lambda at: _claim(at, row)):
            return
        try:
            known = database.read(lambda at: repository.find(at, row.job_id, tenant=None))
        except JobNotFound:
            return
        message = {"id": row.id, "event": "job.finished", "job": told(self._context, known).model_dump(mode="json")}
        failure = self._send(row.url, row.secret, json.dumps(message, separators=(",", ":")).encode())
        pause = _pause(row.tries, self._context.settings.webhook_retry_seconds)
        database.write(lambda at: _note(at, row, failure, pause))
        log = structlog.get_logger().bind(job=row.job_id, tries=row.tries + 1)
        log.info("webhook", outcome=failure or DELIVERED)

    def _send(self, url: str, secret: str, body: bytes) -> str | None:
        """Why it was not taken, in words that tell nothing of the network here; None where it was."""
        headers: dict[bytes | str, bytes | str] = {
            "Content-Type": "application/json",
            "User-Agent": "aslconvert",
            HEADER: signature(secret, body, at=int(time.time())),
        }
        patience = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)
        try:
            # Its head alone is read, so that nobody can keep this busy with an answer without an end.
            with self._pool.stream("POST", url, headers=headers, content=body, extensions={"timeout": patience}) as got:
                return None if 200 <= got.status < 300 else f"answered {got.status}"
        except NotAllowed:
            return "address not allowed"
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return type(error).__name__
        except ValueError:
            return "address cannot be read"


def _due(at: Transaction) -> Sequence[Row[Any]]:
    statement = (
        select(webhooks)
        .join(jobs, jobs.c.id == webhooks.c.job_id)
        .where(webhooks.c.state == WAITING, webhooks.c.next_at <= at.wall, jobs.c.finished.is_not(None))
        .order_by(webhooks.c.next_at)
        .limit(4 * AT_ONCE)
    )
    return at.connection.execute(statement).all()


def _claim(at: Transaction, row: Row[Any]) -> bool:
    mine = (webhooks.c.job_id == row.job_id) & (webhooks.c.state == WAITING) & (webhooks.c.next_at == row.next_at)
    later = at.wall + timedelta(seconds=LEASE_SECONDS)
    claimed = update(webhooks).where(mine).values(next_at=later).returning(webhooks.c.job_id)
    return at.connection.execute(claimed).one_or_none() is not None


def _note(at: Transaction, row: Row[Any], failure: str | None, pause: float) -> None:
    tries = row.tries + 1
    state = DELIVERED if failure is None else GIVEN_UP if tries >= MOST_TRIES else WAITING
    values = {"tries": tries, "state": state, "error": failure, "next_at": at.wall + timedelta(seconds=pause)}
    at.connection.execute(update(webhooks).where(webhooks.c.job_id == row.job_id).values(values))


def _pause(tries: int, first: float) -> float:
    # Not all at the same moment, when a receiver comes back.
    return float(min(MOST_PAUSE_SECONDS, first * 2.0**tries) * random.uniform(0.75, 1.25))


@contextmanager
def running(context: Context) -> Iterator[None]:
    """Deliver while the app runs."""
    with Delivery(context):
        yield
