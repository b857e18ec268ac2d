"""The state of an attempt that the next one goes on from: one blob a job, held until the job has its result."""

from __future__ import annotations

from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import LeaseLost
from aslconvert.workers.jobs.records import Claim
from aslconvert.workers.jobs.rows import fenced
from aslconvert.workers.storage.references import CHECKPOINT, held_by, hold, release


def keep_checkpoint(transaction: Transaction, claim: Claim, digest: str) -> None:
    """Hold this state in the place of the one before; renews the lease."""
    expiry = transaction.now + claim.lease_seconds
    if fenced(transaction, claim, None, lease_expiry=expiry, lease_epoch=transaction.epoch) is None:
        raise LeaseLost(claim.job_id, claim.token)
    release(transaction, CHECKPOINT, claim.job_id)
    hold(transaction, CHECKPOINT, claim.job_id, [digest])


def checkpoint(transaction: Transaction, job_id: str) -> str | None:
    """The hash of the state that is held."""
    found = held_by(transaction, CHECKPOINT, job_id)
    return found[0] if found else None
