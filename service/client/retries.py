"""Requests that are made again: what is worth it, how long to wait, and when to give up."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from aslconvert.service.client.errors import Busy, ClientError, Conflict, Misuse, Refused, Unreachable, refusal
from aslconvert.service.client.steps import Pause, Reply, Request, Steps, send


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Waits grow from ``first`` to ``most`` seconds, each drawn between half of itself and itself; after ``patience``
    seconds without an answer the last error is raised. ``waiting`` is called with the error and ``patience`` before the
    first wait of several."""

    first: float = 0.25
    most: float = 15.0
    patience: float = 120.0
    waiting: Callable[[ClientError, float], None] | None = None

    def wait(self, attempt: int) -> float:
        """Seconds before try ``attempt`` + 1; the first try is number 0."""
        longest = min(self.most, self.first * 2.0 ** min(attempt, 16))
        # Clients that lost the same server must not come back to it at the same moment.
        return longest * random.uniform(0.5, 1.0)


class Late(Exception):
    """The deadline comes before the next try; its cause is why there would be one."""


class Tries:
    """Counts the tries of one thing; ``done`` starts anew where something was achieved."""

    def __init__(self, retry: Retry, *, deadline: float | None = None) -> None:
        self._retry, self._deadline = retry, deadline
        self.reset()

    def reset(self) -> None:
        """Something was achieved."""
        self._attempt = 0
        self._until = time.monotonic() + self._retry.patience

    def after(self, error: ClientError, *, mended: bool = False) -> Steps[None]:
        """Wait for the next try. Raises ``error`` when none would help or no time is left for one, Late when the
        deadline comes before it.

        ``mended``: the next try differs from this one, so that it may help whatever the error was.
        """
        if not (mended or transient(error)):
            raise error
        seconds = self._retry.wait(self._attempt)
        if isinstance(error, Refused) and error.retry_after is not None:
            seconds = max(seconds, error.retry_after)
        now = time.monotonic()
        if self._deadline is not None and now + seconds > self._deadline:
            yield Pause(max(0.0, self._deadline - now))
            raise Late from error
        if now + seconds > self._until:
            raise error
        if self._attempt == 0 and self._retry.waiting is not None:
            self._retry.waiting(error, self._retry.patience)
        self._attempt += 1
        yield Pause(seconds)


def call(request: Request, retry: Retry, *, deadline: float | None = None) -> Steps[Reply]:
    """The answer to a request that may be carried out more than once: by its method or by its Idempotency-Key.

    Raises:
        Late: not before the deadline, on the clock of `time.monotonic`.
        Unreachable, Refused: when trying again does not help, or did not within the patience.
    """
    tries = Tries(retry, deadline=deadline)
    lost = False
    while True:
        try:
            return (yield from once(request))
        except (Unreachable, Refused) as error:
            if lost and request.method == "DELETE" and isinstance(error, Refused) and error.status == 404:
                # An earlier try did it, and only its answer was lost.
                return Reply(204, {}, b"")
            failure = error
            # Where no connection was made nothing was asked.
            unasked = isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
            lost = lost or (isinstance(error, Unreachable) and not unasked)
        yield from tries.after(failure)


def once(request: Request) -> Steps[Reply]:
    """One try. Raises Unreachable, Misuse or Refused."""
    try:
        reply = yield from send(request)
    except httpx.TransportError as error:
        raise unreachable(error) from error
    if reply.status >= 400:
        raise refused(reply.status, reply.headers, reply.body)
    return reply


def transient(error: ClientError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, Unreachable):
        return error.code != "certificate"
    # A conflict that says when to come back is a request of ours that is still being carried out.
    return isinstance(error, Busy) or (isinstance(error, Conflict) and error.retry_after is not None)


def refused(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The error of an answer of 400 or more."""
    return refusal(status, headers, body, retry_after=retry_after(headers.get("retry-after")))


def unreachable(error: httpx.TransportError) -> Unreachable | Misuse:
    """The client's own error of one of httpx."""
    if isinstance(error, httpx.UnsupportedProtocol):
        return Misuse("server", f"{error}", hint="Write the server as http://HOST:PORT or https://HOST.")
    where = ""
    if (request := getattr(error, "_request", None)) is not None:
        where = f" by {request.url.scheme}://{request.url.netloc.decode()}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            told = f"The certificate shown{where} is not trusted: {cause.verify_message}."
            return Unreachable("certificate", told, hint="Name its authority in SSL_CERT_FILE.")
        cause = cause.__cause__ or cause.__context__
    what = "No answer in time" if isinstance(error, httpx.TimeoutException) else "No connection, or it was lost"
    told = f"{what}{where} ({type(error).__name__}: {error})."
    return Unreachable("unreachable", told, hint="Is the server running, and is its address right?")


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None for neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
