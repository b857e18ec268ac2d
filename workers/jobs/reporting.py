"""A worker at work: heartbeats, stages, progress and events, each under its fencing token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import InternalError, LeaseLost
from aslconvert.workers.jobs.records import MAX_EVENT, Claim, Progress, checked_json
from aslconvert.workers.jobs.rows import append, fenced, seen

# What the store writes itself; a worker's own events must not be taken for them.
RESERVED = frozenset(
    {"queued", "running", "requeued", "cancelling", "succeeded", "failed", "cancelled", "expired", "stage", "progress"}
    # With which the service ends its streams.
    | {"end"}
)


def heartbeat(transaction: Transaction, claim: Claim) -> bool:
    """Renew the lease; whether the job is to be cancelled."""
    row = fenced(
        transaction,
        claim,
        None,
        lease_expiry=transaction.now + claim.lease_seconds,
        lease_epoch=transaction.epoch,
    )
    if row is None:
        raise LeaseLost(claim.job_id, claim.token)
    return bool(row.cancel_requested)


def report(
    transaction: Transaction,
    claim: Claim,
    *,
    stage: str | None,
    progress: Progress | None,
    events: Sequence[tuple[str, Mapping[str, Any]]],
) -> bool:
    """Store where the work stands; whether the job is to be cancelled."""
    added = [_checked(kind, data) for kind, data in events]
    values: dict[str, Any] = {}
    if progress is not None:
        values |= {"done": progress.done, "total": progress.total, "unit": progress.unit[:32]}
        told = {"done": progress.done, "total": progress.total, "unit": progress.unit[:32]}
        added.insert(0, ("progress", told))
    if stage is not None:
        # A new stage has its own units: what was done of the last one says nothing about it.
        values = {"stage": stage[:200], "done": None, "total": None, "unit": None} | values
        added.insert(0, ("stage", {"stage": stage[:200]}))
    if not added:
        return heartbeat(transaction, claim)
    row = fenced(transaction, claim, None, **values, **seen(len(added)))
    if row is None:
        raise LeaseLost(claim.job_id, claim.token)
    append(transaction, row, *added)
    return bool(row.cancel_requested)


def _checked(kind: str, data: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if not kind.isidentifier() or len(kind) > 32 or kind in RESERVED:
        raise InternalError("bad_event", f"{kind!r} is no type of a worker's event.")
    return kind, checked_json(data, MAX_EVENT)
