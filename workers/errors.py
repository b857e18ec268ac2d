"""Every error of the job rooms, and the problem document that a failed job keeps.

WorkersError
├── UserError                 the caller can mend it
│   ├── JobNotFound           no such job, or it belongs to somebody else
│   ├── JobActive             the job has not finished yet, so this cannot be done to it
│   ├── IdempotencyMismatch   the key was used before with another payload
│   └── BlobNotFound          no such blob
├── InfrastructureError       disk, memory, a database or a machine failed; worth another try
│   ├── LeaseLost             another worker may hold the job: stop, and write nothing
│   └── DamagedBlob           stored bytes are not those that were put there
└── InternalError             a defect of ours
    └── IllegalTransition     a job cannot go from this state to that one

The engine has a tree of its own in `converter/errors.py`, which these rooms do not import: they know no engine.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["user", "infrastructure", "internal"]

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_STATUS: dict[str, int] = {"user": 422, "infrastructure": 503, "internal": 500}


class WorkersError(Exception):
    """Base: ``code`` is stable for machines, the message says what, where and what to do."""

    kind: Kind = "internal"
    status = 500

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message if not hint else f"{message} {hint}")
        self.code = code
        self.message = message
        self.hint = hint


class UserError(WorkersError):
    """The caller can mend it."""

    kind: Kind = "user"
    status = 422


class JobNotFound(UserError):
    """No such job for this tenant; the same answer whether it never was or belongs to somebody else."""

    status = 404

    def __init__(self, job_id: str) -> None:
        super().__init__("job_not_found", f"There is no job {job_id}.")


class JobActive(UserError):
    """The job is queued or at work."""

    status = 409

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__("job_active", f"Job {job_id} is {state}.", hint="Cancel it, and wait until it has ended.")


class IdempotencyMismatch(UserError):
    """An idempotency key came back with another payload."""

    def __init__(self, key: str) -> None:
        super().__init__(
            "idempotency_mismatch",
            f"The idempotency key {key!r} was used before with another payload.",
            hint="Take a new key for a new job.",
        )


class BlobNotFound(UserError):
    """No blob has this hash."""

    status = 404

    def __init__(self, digest: str) -> None:
        super().__init__("blob_not_found", f"There is no blob {digest}.")


class InfrastructureError(WorkersError):
    """Disk, memory, a database or a machine failed; nothing is wrong with the input."""

    kind: Kind = "infrastructure"
    status = 503


class LeaseLost(InfrastructureError):
    """The claim is no longer the one in force: whatever the worker still holds must not be written."""

    def __init__(self, job_id: str, token: int) -> None:
        super().__init__("lease_lost", f"Attempt {token} of job {job_id} no longer holds the lease.")


class DamagedBlob(InfrastructureError):
    """Stored bytes do not have the hash that they are stored under."""

    def __init__(self, digest: str) -> None:
        super().__init__("damaged_blob", f"The bytes of blob {digest} have changed in the store.")


class InternalError(WorkersError):
    """A defect of this project."""


class IllegalTransition(InternalError):
    """A job cannot go from this state to that one."""

    def __init__(self, before: str, after: str) -> None:
        super().__init__("illegal_transition", f"A job that is {before} cannot become {after}.")


class Problem(BaseModel):
    """Problem details (RFC 9457) with this project's members ``code``, ``kind`` and ``hint``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    code: str
    kind: Kind
    hint: str = ""


def problem(code: str, detail: str, *, kind: Kind, hint: str = "", status: int | None = None) -> Problem:
    """A problem document; the type URI and the title follow from the code, the status from the kind if none is given.

    Raises:
        InternalError: the code is not lower case words joined by underscores.
    """
    if not _CODE.fullmatch(code):
        raise InternalError("bad_code", f"{code!r} is no error code.")
    return Problem(
        type=f"urn:aslconvert:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=_STATUS[kind] if status is None else status,
        detail=detail,
        code=code,
        kind=kind,
        hint=hint,
    )


def problem_of(error: BaseException) -> Problem:
    """The problem document of any exception; of a foreign one only the class is told, as messages may hold paths."""
    code, kind = getattr(error, "code", None), getattr(error, "kind", None)
    # By shape and not by class, so that the engine's errors read the same without importing them.
    if isinstance(code, str) and _CODE.fullmatch(code) and kind in _STATUS:
        status = getattr(error, "status", None)
        return problem(
            code,
            str(getattr(error, "message", error)),
            kind=kind,
            hint=str(getattr(error, "hint", "")),
            status=status if isinstance(status, int) else None,
        )
    return problem("unexpected", f"An unexpected {type(error).__name__} ended the job.", kind="internal")
