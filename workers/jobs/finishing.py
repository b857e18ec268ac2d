"""An attempt ends: with an outcome, or with the job back in the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import case, literal, null

from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import InternalError, LeaseLost, Problem
from aslconvert.workers.jobs.claiming import MAX_SECONDS
from aslconvert.workers.jobs.records import MAX_RESULT, Claim, checked_json
from aslconvert.workers.jobs.rows import NO_LEASE, announce, append, end_attempt, fenced, seen
from aslconvert.workers.jobs.states import HELD, State, sources
from aslconvert.workers.jobs.tables import jobs
from aslconvert.workers.storage.references import CHECKPOINT, JOB, hold, release


def finish(
    transaction: Transaction,
    claim: Claim,
    after: State,
    *,
    result: Mapping[str, Any] | None = None,
    problem: Problem | None = None,
    blobs: Sequence[str] = (),
) -> None:
    """End the job with an outcome; the references to the result's blobs are taken with it."""
    row = fenced(
        transaction,
        claim,
        after,
        allowed=HELD.intersection(sources(after)),
        state=after,
        finished=transaction.wall,
        result=None if result is None else checked_json(result, MAX_RESULT),
        problem=None if problem is None else problem.model_dump(),
        **NO_LEASE,
        **seen(),
    )
    if row is None:
        return
    append(transaction, row, (after, {} if problem is None else {"problem": problem.model_dump()}))
    end_attempt(transaction, claim.job_id, claim.token, after, problem)
    hold(transaction, JOB, claim.job_id, blobs)
    if after is not State.CANCELLED:
        # A cancelled job keeps the best that it had.
        release(transaction, CHECKPOINT, claim.job_id)


def give_back(transaction: Transaction, claim: Claim) -> State:
    """Queue the job again as if this attempt had not been; one that was to be cancelled is cancelled."""
    cancelling = jobs.c.state == State.CANCELLING
    row = fenced(
        transaction,
        claim,
        None,
        state=case((cancelling, State.CANCELLED), else_=State.QUEUED),
        attempts_made=jobs.c.attempts_made - 1,
        finished=case((cancelling, literal(transaction.wall, jobs.c.finished.type)), else_=null()),
        **NO_LEASE,
        **seen(),
    )
    if row is None:
        raise LeaseLost(claim.job_id, claim.token)
    state = State(row.state)
    _say(transaction, row, state, {"reason": "given_back"})
    end_attempt(transaction, claim.job_id, claim.token, "given_back")
    if state is State.QUEUED:
        announce(transaction, (row.id, row.queue))
    return state


def retry_later(transaction: Transaction, claim: Claim, problem: Problem, *, delay: float) -> State:
    """Queue the job again in ``delay`` seconds, or fail it with the problem if this was its last attempt."""
    if not 0 <= delay <= MAX_SECONDS:
        raise InternalError("bad_delay", f"A delay is from 0 to {MAX_SECONDS:.0f} s.")
    cancelling = jobs.c.state == State.CANCELLING
    spent = jobs.c.attempts_made >= jobs.c.max_attempts
    ends = cancelling | spent
    row = fenced(
        transaction,
        claim,
        None,
        state=case((cancelling, State.CANCELLED), (spent, State.FAILED), else_=State.QUEUED),
        finished=case((ends, literal(transaction.wall, jobs.c.finished.type)), else_=null()),
        problem=case((spent & ~cancelling, literal(problem.model_dump(), jobs.c.problem.type)), else_=null()),
        available_at=case((ends, null()), else_=transaction.now + delay),
        available_epoch=case((ends, null()), else_=transaction.epoch),
        **NO_LEASE,
        **seen(),
    )
    if row is None:
        raise LeaseLost(claim.job_id, claim.token)
    state = State(row.state)
    told = {"reason": "retry", "delay": delay, "problem": problem.model_dump()}
    _say(transaction, row, state, told, problem=problem)
    end_attempt(transaction, claim.job_id, claim.token, "retried", problem)
    return state


def _say(
    transaction: Transaction, row: Any, state: State, requeued: Mapping[str, Any], *, problem: Problem | None = None
) -> None:
    if state is State.QUEUED:
        append(transaction, row, ("requeued", requeued))
    elif state is State.FAILED and problem is not None:
        append(transaction, row, (state, {"problem": problem.model_dump()}))
    else:
        append(transaction, row, (state, {}))
