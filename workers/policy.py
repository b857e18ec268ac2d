"""How attempts are run, and the ways in which they end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aslconvert.workers.sandbox.limits import Limits


class Outcome(StrEnum):
    """How an attempt ended, for logs and metrics; what became of the job is in the store."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    GIVEN_BACK = "given_back"
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class SupervisorSettings:
    """How jobs are run. Seconds: ``time_limit`` for an attempt, ``grace`` from asking a job to stop to killing it,
    ``cancel_grace`` likewise where it was cancelled, ``flush`` between two writes of progress, ``checkpoint`` between
    two of state, ``retry_delay`` before an infrastructure error is tried again.

    ``processes``: in how many a job may heal, which then speak over the sandbox's own loopback interface.
    ``strict`` refuses jobs where the kernel grants less than the whole sandbox.
    """

    engine: str = "aslconvert.workers.engine:run"
    limits: Limits = field(default_factory=Limits)
    time_limit: float = 6 * 3600.0
    grace: float = 20.0
    cancel_grace: float = 3.0
    flush: float = 0.5
    checkpoint: float = 30.0
    retry_delay: float = 5.0
    result_bytes: int = 16 << 30
    processes: int = 1
    strict: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
