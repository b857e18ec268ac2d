"""The states of a job and the ways between them.

queued ──> running ──> succeeded, failed ──> expired
  │  <──────┘  │            ↑                   ↑
  │            └─> cancelling ─> cancelled ─────┘
  └───────────────────────────────^
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from aslconvert.workers.errors import IllegalTransition


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


# What a worker does may still succeed or fail after it was asked to stop: whichever comes first is the outcome.
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset({State.QUEUED, State.CANCELLING, State.SUCCEEDED, State.FAILED}),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset({State.EXPIRED}),
    State.FAILED: frozenset({State.EXPIRED}),
    State.CANCELLED: frozenset({State.EXPIRED}),
    State.EXPIRED: frozenset(),
}

HELD: Final = frozenset({State.RUNNING, State.CANCELLING})
FINISHED: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


def require(before: State, after: State) -> None:
    """Let a legal transition pass.

    Raises:
        IllegalTransition: the table has no such way.
    """
    if after not in TRANSITIONS[before]:
        raise IllegalTransition(before, after)


def sources(after: State) -> list[State]:
    """The states from which ``after`` may be reached, for the condition of a statement."""
    return [before for before in State if after in TRANSITIONS[before]]
