"""The outbox: which jobs a broker must be told of, so that a crash between commit and message loses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import or_, select, update

from aslconvert.workers.database import Transaction
from aslconvert.workers.jobs.records import Queue
from aslconvert.workers.jobs.tables import outbox


def unsent(transaction: Transaction, *, limit: int, resend_after: float) -> Sequence[tuple[str, Queue]]:
    """Ids and queues of jobs never sent, or sent longer than ``resend_after`` seconds ago and still not claimed."""
    now = transaction.now
    due = or_(
        outbox.c.sent_at.is_(None),
        outbox.c.sent_at <= now - resend_after,
        outbox.c.sent_at > now,
        outbox.c.sent_epoch != transaction.epoch,
    )
    statement = select(outbox.c.job_id, outbox.c.queue).where(due).order_by(outbox.c.job_id).limit(limit)
    return [(job_id, Queue(queue)) for job_id, queue in transaction.connection.execute(statement)]


def mark_sent(transaction: Transaction, job_ids: Iterable[str]) -> None:
    """Remember that the broker has these; one that was claimed meanwhile has left the outbox already."""
    transaction.connection.execute(
        update(outbox)
        .where(outbox.c.job_id.in_(list(job_ids)))
        .values(sent_at=transaction.now, sent_epoch=transaction.epoch)
    )
