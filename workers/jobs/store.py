"""The job store: every call is one transaction, every write of a worker is fenced by its token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from aslconvert.workers.database import Database, Transaction
from aslconvert.workers.database.clock import StepWatch
from aslconvert.workers.errors import InfrastructureError, Problem
from aslconvert.workers.jobs import (
    cancelling,
    checkpointing,
    claiming,
    finishing,
    outboxing,
    reading,
    reaping,
    reporting,
    submitting,
)
from aslconvert.workers.jobs.reaping import Reaped
from aslconvert.workers.jobs.records import (
    Attempt,
    Claim,
    Event,
    Idempotency,
    Job,
    Kind,
    NewJob,
    Page,
    Progress,
    Queue,
    QueueFigures,
)
from aslconvert.workers.jobs.states import State

LEASE_SECONDS = 30.0


class JobStore:
    """Jobs in a database whose tables `migrate` has made; safe for threads, one a process.

    Every method raises InfrastructureError (``database_unavailable``, ``disk_full``) when the database cannot be used.
    Methods of a worker take its claim and raise LeaseLost once that is not in force any more: the worker must stop
    then, and what it has made must not be published. Where ``tenant`` is given, other tenants' jobs do not exist.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._watch = StepWatch()

    def submit(self, new: NewJob, *, idempotency: Idempotency | None = None) -> Job:
        """Queue a job; with a key that was used before, the job of then.

        Raises:
            IdempotencyMismatch: the key was used with another payload.
            BlobNotFound: a blob that the job names does not exist.
        """
        for _ in range(3):
            try:
                return self.database.write(lambda at: submitting.submit(at, new, idempotency=idempotency))
            except submitting.KeyTaken:
                continue
        # Only if the key's job is deleted each time between the insert that failed and the next look.
        raise InfrastructureError("database_unavailable", "The idempotency key is taken and released all the time.")

    def claim(self, queues: Iterable[Queue], *, worker: str, lease_seconds: float = LEASE_SECONDS) -> Claim | None:
        """Lease the next job of the first of these queues that has one: smallest priority first, then the oldest."""
        asked = tuple(queues)
        return self.database.write(
            lambda at: claiming.claim_next(at, asked, worker=worker, lease_seconds=lease_seconds)
        )

    def claim_id(self, job_id: str, *, worker: str, lease_seconds: float = LEASE_SECONDS) -> Claim | None:
        """Lease the job that a message names; None if it is not ready, such as when the message came twice."""
        return self.database.write(lambda at: claiming.claim_id(at, job_id, worker=worker, lease_seconds=lease_seconds))

    def heartbeat(self, claim: Claim) -> bool:
        """Renew the lease; whether the job is to be cancelled. Raises LeaseLost."""
        return self.database.write(lambda at: reporting.heartbeat(at, claim))

    def report(
        self,
        claim: Claim,
        *,
        stage: str | None = None,
        progress: Progress | None = None,
        events: Sequence[tuple[str, Mapping[str, Any]]] = (),
    ) -> bool:
        """Store a stage, progress within it and events (type, data); whether the job is to be cancelled.

        Raises:
            LeaseLost: the claim is not in force.
            InternalError: ``bad_event`` for a type of the store's own, ``bad_json``.
        """
        return self.database.write(
            lambda at: reporting.report(at, claim, stage=stage, progress=progress, events=events)
        )

    def keep_checkpoint(self, claim: Claim, digest: str) -> None:
        """Hold a blob as the state that another attempt can go on from, in the place of the one before.

        Raises LeaseLost, BlobNotFound.
        """
        self.database.write(lambda at: checkpointing.keep_checkpoint(at, claim, digest))

    def checkpoint(self, job_id: str) -> str | None:
        """The hash of the state that an earlier attempt left, if any."""
        return self.database.read(lambda at: checkpointing.checkpoint(at, job_id))

    def succeed(self, claim: Claim, result: Mapping[str, Any], *, blobs: Sequence[str] = ()) -> None:
        """End the job well, holding the result's blobs. Raises LeaseLost, BlobNotFound; repeating it does no harm."""
        self.database.write(lambda at: finishing.finish(at, claim, State.SUCCEEDED, result=result, blobs=blobs))

    def fail(self, claim: Claim, problem: Problem) -> None:
        """End the job with an error that another try would not mend. Raises LeaseLost; repeating it does no harm."""
        self.database.write(lambda at: finishing.finish(at, claim, State.FAILED, problem=problem))

    def cancelled(self, claim: Claim, result: Mapping[str, Any] | None = None, *, blobs: Sequence[str] = ()) -> None:
        """End a job whose cancellation was asked for, keeping the best result so far.

        Raises:
            LeaseLost: the claim is not in force.
            IllegalTransition: nobody asked for it.
        """
        self.database.write(lambda at: finishing.finish(at, claim, State.CANCELLED, result=result, blobs=blobs))

    def give_back(self, claim: Claim) -> State:
        """Leave the job to another worker, without counting this attempt. Raises LeaseLost."""
        return self.database.write(lambda at: finishing.give_back(at, claim))

    def retry_later(self, claim: Claim, problem: Problem, *, delay: float) -> State:
        """Try again in ``delay`` seconds after an infrastructure error, or fail after the last attempt.

        Raises LeaseLost.
        """
        return self.database.write(lambda at: finishing.retry_later(at, claim, problem, delay=delay))

    def request_cancel(self, job_id: str, *, tenant: str | None = None) -> Job:
        """Ask a job to stop; a queued one is cancelled at once, a finished one stays as it is. Raises JobNotFound."""
        return self.database.write(lambda at: cancelling.request_cancel(at, job_id, tenant=tenant))

    def delete(self, job_id: str, *, tenant: str | None = None) -> None:
        """Remove a finished job and all that belongs to it. Raises JobNotFound, JobActive."""
        self.database.write(lambda at: cancelling.remove(at, job_id, tenant=tenant))

    def reap(self, *, limit: int = 100) -> list[Reaped]:
        """Take jobs from workers that fell silent: queued again, cancelled, or failed with ``poison``.

        Call it every few seconds from one store that is kept: it remembers the clock, to find out when that was set.
        """
        return self.database.write(lambda at: reaping.reap(at, self._watch, limit=limit))

    def expire(self, *, keep: timedelta, keep_keys: timedelta = timedelta(days=1), limit: int = 100) -> list[str]:
        """Empty jobs that finished longer than ``keep`` ago of results, events and blobs; their ids."""
        return self.database.write(lambda at: reaping.expire(at, keep=keep, keep_keys=keep_keys, limit=limit))

    def unsent(self, *, limit: int = 100, resend_after: float = 600.0) -> Sequence[tuple[str, Queue]]:
        """Jobs that a broker must be told of; again after ``resend_after`` seconds, in case it lost the message."""
        return self.database.read(lambda at: outboxing.unsent(at, limit=limit, resend_after=resend_after))

    def mark_sent(self, job_ids: Iterable[str]) -> None:
        """Note that the broker was told."""
        told = list(job_ids)
        self.database.write(lambda at: outboxing.mark_sent(at, told))

    def job(self, job_id: str, *, tenant: str | None = None) -> Job:
        """One job. Raises JobNotFound."""
        return self.database.read(lambda at: reading.job(at, job_id, tenant=tenant))

    def events_after(
        self, job_id: str, number: int = 0, *, tenant: str | None = None, limit: int = 1000
    ) -> Sequence[Event]:
        """Events with a higher number, in order. Raises JobNotFound."""

        def work(at: Transaction) -> Sequence[Event]:
            reading.job(at, job_id, tenant=tenant)
            return reading.events_after(at, job_id, number, limit=limit)

        return self.database.read(work)

    def attempts(self, job_id: str) -> Sequence[Attempt]:
        """The tries of a job, in order."""
        return self.database.read(lambda at: reading.attempts_of(at, job_id))

    def page(
        self,
        *,
        tenant: str | None = None,
        state: State | None = None,
        kind: Kind | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page:
        """At most 100 jobs, newest first, from where ``cursor`` says. Raises UserError ``bad_cursor``."""
        return self.database.read(
            lambda at: reading.page(at, tenant=tenant, state=state, kind=kind, cursor=cursor, limit=limit)
        )

    def position(self, job_id: str) -> int | None:
        """The job's place in its queue, from 1; None if it is not ready to be claimed."""
        return self.database.read(lambda at: reading.position(at, job_id))

    def figures(self) -> Sequence[QueueFigures]:
        """Jobs by state, age of the queue and longest silence of a worker, for each queue."""
        return self.database.read(reading.figures)
