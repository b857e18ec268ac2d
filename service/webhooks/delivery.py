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
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import httpcore
import structlog
from sqlalchemy import Row, func, select, update

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

TOTAL_SECONDS = 20.0
"""Of one try, however slowly its receiver answers."""
LEAVE_SECONDS = 5.0
"""For which the end of the service waits for tries that it has broken off."""

AT_ONCE = 16
EACH_AT_ONCE = 2
"""Of one tenant: those whose receivers answer slowly keep nobody else's messages back."""
MOST_TRIES = 14
MOST_PAUSE_SECONDS = 6 * 3600.0
"""With 10 s at first and twice as long each time, the last try is a day after the first."""


class Delivery:
    """Sends in threads while it is entered."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        # By the jobs they tell of.
        self._sent: dict[str, Future[None]] = {}
        self._backend = GuardedBackend(private=context.settings.webhook_private, seconds=TOTAL_SECONDS)
        self._pool = httpcore.ConnectionPool(
            network_backend=self._backend, max_connections=AT_ONCE, max_keepalive_connections=0, http2=False
        )

    def __enter__(self) -> Delivery:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        # What is broken off is sent again by whoever comes next.
        self._backend.abort()
        self._thread.join(LEAVE_SECONDS)
        wait(list(self._sent.values()), LEAVE_SECONDS)
        self._pool.close()

    def _run(self) -> None:
        threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
        tenants: dict[str, str] = {}
        try:
            while not self._ended.wait(POLL_SECONDS):
                try:
                    due = self._context.database.read(_due)
                except Exception as error:  # noqa: BLE001  it must go on, whatever the database says today
                    structlog.get_logger().warning("webhooks wait", reason=type(error).__name__)
                    continue
                self._sent = {job: future for job, future in self._sent.items() if not future.done()}
                for row in due:
                    busy = sum(tenants[job] == row.tenant for job in self._sent)
                    if row.job_id not in self._sent and len(self._sent) < AT_ONCE and busy < EACH_AT_ONCE:
                        tenants[row.job_id] = row.tenant
                        self._sent[row.job_id] = threads.submit(self._deliver, row)
                tenants = {job: tenants[job] for job in self._sent}
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _deliver(self, row: Row[Any]) -> None:
        try:
            self._try(row)
        except Exception as error:  # noqa: BLE001  the message is due again when its lease is over
            structlog.get_logger().warning("webhook waits", job=row.job_id, reason=type(error).__name__)

    def _try(self, row: Row[Any]) -> None:
        database = self._context.database
        claimed = None if self._ended.is_set() else database.write(lambda at: _claim(at, row))
        if claimed is None:
            return
        try:
            known = database.read(lambda at: repository.find(at, row.job_id, tenant=None))
        except JobNotFound:
            return
        try:
            job = told(self._context, known).model_dump(mode="json")
            message = {"id": row.id, "event": "job.finished", "job": job}
            failure = self._send(row.url, row.secret, json.dumps(message, separators=(",", ":")).encode())
        except Exception as error:  # noqa: BLE001  counted as any other: a message that cannot be sent must end too
            failure = type(error).__name__
        pause = _pause(row.tries, self._context.settings.webhook_retry_seconds)
        noted = database.write(lambda at: _note(at, row, claimed, failure, pause))
        log = structlog.get_logger().bind(job=row.job_id, tries=row.tries + 1, noted=noted)
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
        except ValueError:
            return "address cannot be read"


def _due(at: Transaction) -> Sequence[Row[Any]]:
    # The oldest of each tenant: else one tenant's many would be all that is seen.
    rank = func.row_number().over(partition_by=jobs.c.tenant, order_by=webhooks.c.next_at).label("rank")
    found = (
        select(webhooks, jobs.c.tenant, rank)
        .join(jobs, jobs.c.id == webhooks.c.job_id)
        .where(webhooks.c.state == WAITING, webhooks.c.next_at <= at.wall, jobs.c.finished.is_not(None))
        .subquery()
    )
    statement = select(found).where(found.c.rank <= EACH_AT_ONCE).order_by(found.c.next_at).limit(4 * AT_ONCE)
    return at.connection.execute(statement).all()


def _claim(at: Transaction, row: Row[Any]) -> datetime | None:
    """Until when the message is this process's; None where another was first."""
    mine = (webhooks.c.job_id == row.job_id) & (webhooks.c.state == WAITING) & (webhooks.c.next_at == row.next_at)
    later = at.wall + timedelta(seconds=LEASE_SECONDS)
    claimed = update(webhooks).where(mine).values(next_at=later).returning(webhooks.c.next_at)
    return at.connection.execute(claimed).scalar_one_or_none()


def _note(at: Transaction, row: Row[Any], claimed: datetime, failure: str | None, pause: float) -> bool:
    """Whether it was noted: what another process has claimed since is that one's to note, unless this was taken."""
    tries = row.tries + 1
    state = DELIVERED if failure is None else GIVEN_UP if tries >= MOST_TRIES else WAITING
    values = {"tries": tries, "state": state, "error": failure, "next_at": at.wall + timedelta(seconds=pause)}
    mine = (webhooks.c.job_id == row.job_id) & (webhooks.c.state == WAITING)
    if failure is not None:
        mine &= webhooks.c.next_at == claimed
    noted = update(webhooks).where(mine).values(values).returning(webhooks.c.job_id)
    return at.connection.execute(noted).one_or_none() is not None


def _pause(tries: int, first: float) -> float:
    # Not all at the same moment, when a receiver comes back.
    return float(min(MOST_PAUSE_SECONDS, first * 2.0**tries) * random.uniform(0.75, 1.25))


@contextmanager
def running(context: Context) -> Iterator[None]:
    """Deliver while the app runs."""
    with Delivery(context):
        yield
