"""The job store: jobs, attempts, leases and events in one database."""

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
from aslconvert.workers.jobs.states import FINISHED, HELD, State
from aslconvert.workers.jobs.store import LEASE_SECONDS, JobStore

__all__ = [
    "FINISHED",
    "HELD",
    "LEASE_SECONDS",
    "Attempt",
    "Claim",
    "Event",
    "Idempotency",
    "Job",
    "JobStore",
    "Kind",
    "NewJob",
    "Page",
    "Progress",
    "Queue",
    "QueueFigures",
    "Reaped",
    "State",
]
