"""A job comes in: its row, first event, outbox row, references and idempotency key, all or nothing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import Row, insert, select

from aslconvert.workers.database import Transaction
from aslconvert.workers.database.base import insert_into
from aslconvert.workers.errors import IdempotencyMismatch, UserError
from aslconvert.workers.jobs.ids import new_id
from aslconvert.workers.jobs.records import Idempotency, Job, NewJob, job_of
from aslconvert.workers.jobs.rows import announce, append
from aslconvert.workers.jobs.states import State
from aslconvert.workers.jobs.tables import idempotency_keys, jobs
from aslconvert.workers.storage.references import JOB, hold


class KeyTaken(Exception):
    """Another transaction stored the same idempotency key first: roll back and look again."""


def submit(transaction: Transaction, new: NewJob, *, idempotency: Idempotency | None) -> Job:
    """Store a job, or find the one that the same key and payload stored before.

    Raises:
        IdempotencyMismatch: the key was used with another payload.
        BlobNotFound: a blob that the job names does not exist.
        KeyTaken: run the transaction again.
    """
    if idempotency is not None:
        known = _known(transaction, new, idempotency)
        if known is not None:
            return job_of(known)
    row = transaction.connection.execute(
        insert(jobs)
        .values(
            id=new_id(),
            tenant=new.tenant,
            kind=new.kind,
            queue=new.queue,
            priority=new.priority,
            state=State.QUEUED,
            payload=dict(new.payload),
            attempts_made=0,
            max_attempts=new.max_attempts,
            cancel_requested=False,
            created=transaction.wall,
            version=1,
            event_count=1,
            lease_token=0,
        )
        .returning(jobs)
    ).one()
    append(transaction, row, ("queued", {}))
    announce(transaction, (row.id, row.queue))
    hold(transaction, JOB, row.id, new.blobs)
    if idempotency is not None:
        _remember(transaction, new, idempotency, row.id)
    return job_of(row)


def _known(transaction: Transaction, new: NewJob, idempotency: Idempotency) -> Row[Any] | None:
    if not 0 < len(idempotency.key) <= 255 or not idempotency.key.isprintable():
        raise UserError("bad_idempotency_key", "An idempotency key has 1 to 255 printable characters.")
    found = transaction.connection.execute(
        select(jobs, idempotency_keys.c.payload_hash)
        .join(idempotency_keys, idempotency_keys.c.job_id == jobs.c.id)
        .where(idempotency_keys.c.scope == idempotency.scope, idempotency_keys.c.key == idempotency.key)
    ).one_or_none()
    if found is not None and found.payload_hash != _hash(new):
        raise IdempotencyMismatch(idempotency.key)
    return found


def _remember(transaction: Transaction, new: NewJob, idempotency: Idempotency, job_id: str) -> None:
    values = {
        "scope": idempotency.scope,
        "key": idempotency.key,
        "payload_hash": _hash(new),
        "job_id": job_id,
        "created": transaction.wall,
    }
    # Asked for by RETURNING: an insert's row count is not known with every driver.
    statement = (
        insert_into(transaction.connection, idempotency_keys)
        .values(values)
        .on_conflict_do_nothing()
        .returning(idempotency_keys.c.key)
    )
    # Two requests with one key at the same time: the second waits here for the first, and must not add a job.
    if transaction.connection.execute(statement).one_or_none() is None:
        raise KeyTaken


def _hash(new: NewJob) -> str:
    asked = [new.tenant, new.kind, new.queue, new.priority, new.max_attempts, dict(new.payload), sorted(new.blobs)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
