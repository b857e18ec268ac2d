"""Every error of the client, and how an answer of the server becomes one.

ClientError
├── Unreachable        no answer: the network, the server's name or its certificate
├── Refused            the server said no, with a problem document; ``kind`` tells whose fault it is
│   ├── Unauthorized   no key, a wrong or expired one, or one without the scope
│   ├── NotFound       no such thing for this key
│   ├── Conflict       not possible in the state that it is in
│   └── Busy           too many requests, or the server is not ready; later it may do
├── UploadFailed       the file changed while it was sent, or was refused once it was looked into
├── DamagedDownload    the bytes that came are not those that the server promised
├── JobFailed          the job has ended without a result
├── WaitTimeout        the job has not ended within the time given
└── Misuse             the caller gave something that cannot work; nothing was sent
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import ValidationError

from aslconvert.service.client.records import Job, Kind, Problem

_BUSY = frozenset({429, 502, 503, 504})


class ClientError(Exception):
    """Base: ``code`` is stable for machines, the message says what, where and what to do."""

    kind: Kind = "internal"

    def __init__(self, code: str, message: str, *, hint: str = "", kind: Kind | None = None) -> None:
        super().__init__(message if not hint else f"{message} {hint}")
        self.code = code
        self.message = message
        self.hint = hint
        if kind is not None:
            self.kind = kind


class Unreachable(ClientError):
    """The server gave no answer; the request may or may not have been carried out."""

    kind: Kind = "infrastructure"


class Refused(ClientError):
    """The server answered with a problem document; ``status`` is HTTP's, ``retry_after`` in seconds if it was told."""

    def __init__(self, problem: Problem, *, retry_after: float | None = None) -> None:
        super().__init__(problem.code, problem.detail, hint=problem.hint, kind=problem.kind)
        self.problem = problem
        self.status = problem.status
        self.retry_after = retry_after


class Unauthorized(Refused):
    """401 or 403."""


class NotFound(Refused):
    """404 or 410."""


class Conflict(Refused):
    """409 or 423."""


class Busy(Refused):
    """429, 502, 503 or 504."""


class UploadFailed(ClientError):
    """Nothing came of an upload; ``entry`` is where in the file, if that is known."""

    kind: Kind = "user"

    def __init__(
        self, code: str, message: str, *, hint: str = "", kind: Kind | None = None, entry: str | None = None
    ) -> None:
        super().__init__(code, message, hint=hint, kind=kind)
        self.entry = entry


class DamagedDownload(ClientError):
    """What was downloaded was thrown away."""

    kind: Kind = "infrastructure"


class JobFailed(ClientError):
    """The job failed, was cancelled or has expired; ``job`` is its record."""

    def __init__(self, job: Job) -> None:
        told = job.error
        code, message, hint, kind = f"job_{job.state}", f"Job {job.id} is {job.state}.", "", "user"
        if told is not None:
            code, message, hint, kind = told.code, told.detail, told.hint, told.kind
        super().__init__(code, message, hint=hint, kind=kind)  # type: ignore[arg-type]  # both are of Kind
        self.job = job


class WaitTimeout(ClientError):
    """The job goes on."""

    kind: Kind = "user"


class Misuse(ClientError):
    """The caller can mend it."""

    kind: Kind = "user"


def refusal(status: int, headers: Mapping[str, str], body: bytes, *, retry_after: float | None) -> Refused:
    """The error that an answer of ``status`` 400 or more stands for; a body that is no problem document is quoted."""
    kinds: tuple[tuple[frozenset[int], type[Refused]], ...] = (
        (frozenset({401, 403}), Unauthorized),
        (frozenset({404, 410}), NotFound),
        (frozenset({409, 423}), Conflict),
        (_BUSY, Busy),
    )
    known = next((one for statuses, one in kinds if status in statuses), Refused)
    return known(_problem(status, headers, body), retry_after=retry_after)


def _problem(status: int, headers: Mapping[str, str], body: bytes) -> Problem:
    if "json" in headers.get("content-type", ""):
        try:
            return Problem.model_validate({"status": status, **json.loads(body)})
        except (ValueError, TypeError, ValidationError):
            pass
    # A proxy's page or another server's: the first words help whoever looks for what answers there.
    words = " ".join(body[:200].decode(errors="replace").split())
    kind: Kind = "infrastructure" if status in _BUSY else "internal" if status >= 500 else "user"
    return Problem(code=f"http_{status}", detail=f"The server answered {status}: {words}", status=status, kind=kind)
