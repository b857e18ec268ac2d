"""Follows a job: events as they come, over connections that break, by polling where no stream gets through."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from aslconvert.service.client.downloads import IDENTITY
from aslconvert.service.client.errors import Misuse, Refused, Unreachable, WaitTimeout
from aslconvert.service.client.records import Event, Job, Listing
from aslconvert.service.client.retries import Late, Retry, Tries, call, refused, unreachable
from aslconvert.service.client.steps import Close, Emit, Open, Pause, Read, Request, Steps, Stream

SILENCE_SECONDS = 45.0
"""Three heartbeats of the server: a stream that is silent for longer is dead."""

STREAM_TRIES = 2
"""Streams that gave nothing, one after the other, until it is polled instead."""

POLL_SECONDS = 1.0
_NO_STREAM = frozenset({405, 406, 415})
NEAR_SECONDS = 30.0
"""So near to a deadline it is polled: only then can it be kept to the second."""


@dataclass
class Lines:
    """Events of a text/event-stream; heartbeats, which are comments, are lines too.

    Written out since libraries hide the heartbeats, which are what tells a quiet job from a dead connection.
    """

    _rest: bytes = b""
    _fields: dict[str, list[str]] = field(default_factory=dict)

    def feed(self, chunk: bytes) -> Iterator[dict[str, str]]:
        """The fields of every event that ``chunk`` completes; several lines of data are joined."""
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if not line:
                if "data" in self._fields:
                    yield {name: "\n".join(values) for name, values in self._fields.items()}
                self._fields = {}
            elif not line.startswith(b":"):
                name, _, value = line.decode(errors="replace").partition(":")
                self._fields.setdefault(name, []).append(value.removeprefix(" "))


def follow(job_id: str, *, retry: Retry, after: int = 0, deadline: float | None = None) -> Steps[Job]:
    """Emit every `Event` of the job after number ``after`` once, in order, and give the job when it has ended.

    ``deadline`` is on the clock of time.monotonic.

    Raises:
        WaitTimeout: the deadline has passed.
        Unreachable, Refused: no server has answered for as long as the retry is patient.
    """
    try:
        return (yield from _follow(job_id, retry, after, deadline))
    except Late as late:
        told = f"Nothing was heard of job {job_id} any more: {late.__cause__}"
        raise WaitTimeout("wait_timeout", told, hint="It may go on; wait again.") from late


def _follow(job_id: str, retry: Retry, after: int, deadline: float | None) -> Steps[Job]:
    tries = Tries(retry, deadline=deadline)
    seen, barren = after, 0
    while barren < STREAM_TRIES and _left(deadline) > NEAR_SECONDS:
        try:
            told = yield from _stream(job_id, seen, deadline)
        except Refused as error:
            if error.status in _NO_STREAM:
                break
            yield from tries.after(error)
            continue
        if told.ended:
            return (yield from job(job_id, retry, deadline=deadline))
        seen = told.seen
        if told.heard:
            tries.reset()
            barren = 0
        elif told.opened:
            barren += 1
        if told.failure is not None:
            yield from tries.after(told.failure)
        else:
            # Closed in good order, as by a server that is being restarted.
            yield Pause(retry.first)
    return (yield from _poll(job_id, seen, retry=retry, deadline=deadline))


@dataclass
class _Heard:
    """What became of one connection: the last event's number, whether the job has ended, whether a byte came.

    ``opened``: there was a server that took the request.
    """

    seen: int
    ended: bool = False
    opened: bool = False
    heard: bool = False
    failure: Unreachable | Misuse | None = None


def _stream(job_id: str, seen: int, deadline: float | None) -> Steps[_Heard]:
    headers = {"Accept": "text/event-stream", **IDENTITY}
    if seen:
        headers["Last-Event-ID"] = str(seen)
    patience = min(SILENCE_SECONDS, _left(deadline))
    told = _Heard(seen)
    try:
        stream: Stream = yield Open(
            Request(method="GET", path=f"/v1/jobs/{job_id}/events", headers=headers, read_seconds=patience)
        )
    except httpx.TransportError as error:
        told.failure = unreachable(error)
        # A server that cannot be reached says nothing about streams; one that is silent may sit behind a proxy that is.
        told.opened = isinstance(error, httpx.ReadTimeout)
        return told
    told.opened = True
    if stream.status >= 400:
        body = yield Read(stream)
        yield Close(stream)
        raise refused(stream.status, stream.headers, body)
    lines = Lines()
    readable = stream.headers.get("content-type", "").startswith("text/event-stream")
    while readable and not told.ended and _left(deadline) > NEAR_SECONDS:
        try:
            chunk: bytes = yield Read(stream)
        except httpx.TransportError as error:
            told.failure = unreachable(error)
            break
        if not chunk:
            break
        told.heard = True
        for found in lines.feed(chunk):
            if found.get("event") == "end":
                told.ended = True
                break
            event = _event(found)
            if event is not None and event.number > told.seen:
                told.seen = event.number
                yield Emit(event)
    yield Close(stream)
    return told


def _event(found: dict[str, str]) -> Event | None:
    try:
        data = json.loads(found["data"])
        return Event(number=int(found["id"]), kind=found.get("event", "message"), data=data)
    except (KeyError, ValueError):
        return None


def _poll(job_id: str, seen: int, *, retry: Retry, deadline: float | None) -> Steps[Job]:
    """The same events from lists; the job, asked for before them, tells when no more can come."""
    etag, current = None, None
    while True:
        etag, current = yield from changed_job(job_id, retry, etag=etag, known=current, deadline=deadline)
        while True:
            request = Request(
                method="GET",
                path=f"/v1/jobs/{job_id}/events",
                headers={"Accept": "application/json"},
                params={"after": str(seen), "limit": "100"},
                read_seconds=_patience(deadline),
            )
            reply = yield from call(request, retry, deadline=deadline)
            page = Listing[Event].model_validate_json(reply.body)
            for event in page.items:
                if event.number > seen:
                    seen = event.number
                    yield Emit(event)
            if page.next is None or not page.items:
                break
        if current.done:
            return current
        if _left(deadline) <= 0:
            raise WaitTimeout("wait_timeout", f"Job {job_id} is {current.state}.", hint="It goes on; wait again.")
        yield Pause(min(POLL_SECONDS, max(0.05, _left(deadline))))


def job(job_id: str, retry: Retry, *, deadline: float | None = None) -> Steps[Job]:
    """The job as it stands."""
    request = Request(method="GET", path=f"/v1/jobs/{job_id}", read_seconds=_patience(deadline))
    reply = yield from call(request, retry, deadline=deadline)
    return Job.model_validate_json(reply.body)


def changed_job(
    job_id: str, retry: Retry, *, etag: str | None, known: Job | None, deadline: float | None = None
) -> Steps[tuple[str | None, Job]]:
    """The job and its ETag; ``known``, which came with ``etag``, is given again where nothing has changed."""
    headers = {"If-None-Match": etag} if etag is not None and known is not None else {}
    request = Request(method="GET", path=f"/v1/jobs/{job_id}", headers=headers, read_seconds=_patience(deadline))
    reply = yield from call(request, retry, deadline=deadline)
    if reply.status == 304 and known is not None:
        return etag, known
    return reply.headers.get("etag"), Job.model_validate_json(reply.body)


def _patience(deadline: float | None) -> float | None:
    """For how long an answer is waited for; None for as long as usual."""
    return None if deadline is None else min(SILENCE_SECONDS, max(1.0, _left(deadline)))


def _left(deadline: float | None) -> float:
    return float("inf") if deadline is None else deadline - time.monotonic()
