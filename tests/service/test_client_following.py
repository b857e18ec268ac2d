"""Following a job: every event once and in order, whatever becomes of the connection."""

import asyncio
import contextlib
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from scripted import Answer, Asked, free_port, scripted

from aslconvert.service.client import AsyncClient, Client, Event, Job, JobFailed, NotFound, Retry, WaitTimeout
from aslconvert.service.client.following import Lines

QUICK = Retry(first=0.01, most=0.02, patience=2.0)
EVENTS = [Event(number=number, kind="progress", data={"done": number}) for number in range(1, 21)]


class Service:
    """Serves the job and its events: ``streams`` says after which event each stream breaks off, None for at the end."""

    def __init__(self, *, streams: list[int | None], state: str = "succeeded", sse: bool = True) -> None:
        self.streams = streams
        self.sse = sse
        self.job = {"id": "j", "kind": "convert", "state": state, "created": "2026-01-01T00:00:00Z"}
        self.release = threading.Event()

    def __call__(self, asked: Asked) -> Answer:
        url = urlsplit(asked.path)
        if not url.path.endswith("/events"):
            etag = json.dumps(self.job["state"])
            if asked.headers.get("if-none-match") == etag:
                return Answer(304, b"", {"ETag": etag})
            return Answer(200, json.dumps(self.job).encode(), {"ETag": etag})
        if asked.headers["accept"] == "application/json":
            after = int(parse_qs(url.query)["after"][0])
            rest = [event for event in EVENTS if event.number > after]
            page = {"items": [event.model_dump() for event in rest[:3]], "next": "more" if rest[3:] else None}
            return Answer(200, json.dumps(page).encode(), {"Content-Type": "application/json"})
        if not self.sse:
            return Answer(406)
        after = int(asked.headers.get("last-event-id", 0))
        until = self.streams.pop(0) if self.streams else None
        return Answer(200, self._stream(after, until), {"Content-Type": "text/event-stream"})

    def _stream(self, after: int, until: int | None) -> Iterator[bytes]:
        yield b": hello\n\n"
        # One that was seen already comes again, as from a server that goes back a little.
        for event in EVENTS[max(0, after - 1) :]:
            if until is not None and event.number > until:
                # In the middle of an event.
                yield f"id: {event.number}\nevent: progress\nda".encode()
                return
            yield f"id: {event.number}\nevent: progress\ndata: {json.dumps(event.data)}\n\n".encode()
        yield b'event: end\ndata: {"state": "succeeded"}\n\n'


def followed(kind: str, url: str, **more: float) -> list[Event]:
    if kind == "sync":
        with Client(url, "asl_a_b", retry=QUICK) as client:
            return list(client.follow("j", **more))  # type: ignore[arg-type]

    async def awaited() -> list[Event]:
        async with AsyncClient(url, "asl_a_b", retry=QUICK) as client:
            return [event async for event in client.follow("j", **more)]  # type: ignore[arg-type]

    return asyncio.run(awaited())


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("streams", [[], [7], [3, 3, 0, 11], [0, 1, 2, 3, 4, 5]], ids=str)
def test_events_come_once_and_in_order_over_broken_streams(kind: str, streams: list[int | None]) -> None:
    with scripted(Service(streams=list(streams))) as server:
        assert followed(kind, server.url) == EVENTS
    opened = [asked for asked in server.asked if asked.path.endswith("/events")]
    assert len(opened) == len(streams) + 1
    assert opened[-1].headers.get("last-event-id") == (str(max(streams)) if any(streams) else None)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_without_streams_it_is_polled(kind: str) -> None:
    with scripted(Service(streams=[], sse=False)) as server:
        assert followed(kind, server.url) == EVENTS


def test_a_proxy_that_answers_streams_with_pages_is_got_round() -> None:
    service = Service(streams=[])

    def answer(asked: Asked) -> Answer:
        if asked.headers.get("accept") == "text/event-stream":
            return Answer(200, b"<p>buffered</p>", {"Content-Type": "text/html"})
        return service(asked)

    with scripted(answer) as server:
        assert followed("sync", server.url) == EVENTS


def test_polling_uses_etags() -> None:
    service = Service(streams=[], sse=False, state="running")
    with scripted(service) as server, Client(server.url, "asl_a_b", retry=QUICK) as client:
        with pytest.raises(WaitTimeout, match="running"):
            client.wait("j", timeout=2.5)
        polls = [asked for asked in server.asked if not asked.path.partition("?")[0].endswith("/events")]
        assert len(polls) >= 2
        assert polls[0].headers.get("if-none-match") is None
        assert {asked.headers.get("if-none-match") for asked in polls[1:]} == {'"running"'}


def test_events_can_be_followed_from_a_number() -> None:
    with scripted(Service(streams=[])) as server:
        assert followed("sync", server.url, after=18) == EVENTS[18:]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_time_limit_is_kept(kind: str) -> None:
    service = Service(streams=[], state="queued")
    begun = time.monotonic()
    with scripted(service) as server, pytest.raises(WaitTimeout):
        followed(kind, server.url, timeout=1.0)
    assert 0.9 < time.monotonic() - begun < 5


def test_a_job_that_is_not_there_is_told() -> None:
    with scripted(lambda asked: Answer(404)) as server, pytest.raises(NotFound):
        followed("sync", server.url)


def test_wait_gives_the_job_or_raises_its_problem() -> None:
    seen: list[Event] = []
    with scripted(Service(streams=[4])) as server, Client(server.url, "asl_a_b", retry=QUICK) as client:
        assert client.wait("j", listener=seen.append).state == "succeeded"
    assert seen == EVENTS
    service = Service(streams=[], state="failed")
    problem = {"code": "data_nan", "detail": "Not a number.", "kind": "user", "status": 422, "hint": "Look."}
    service.job["error"] = problem  # type: ignore[assignment]
    with scripted(service) as server, Client(server.url, "asl_a_b", retry=QUICK) as client:
        with pytest.raises(JobFailed) as caught:
            client.wait("j")
        assert (caught.value.code, caught.value.kind, caught.value.hint) == ("data_nan", "user", "Look.")
        assert client.wait("j", check=False).state == "failed"


def test_leaving_early_closes_the_stream() -> None:
    gone = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            for number in itertools.count(1):
                yield f"id: {number}\nevent: progress\ndata: {{}}\n\n".encode()
                time.sleep(0.001)
        finally:
            gone.set()

    def answer(asked: Asked) -> Answer:
        return Answer(200, endless(), {"Content-Type": "text/event-stream"})

    with scripted(answer) as server, Client(server.url, "asl_a_b", retry=QUICK) as client:
        with contextlib.closing(client.follow("j")) as events:
            assert next(events).number == 1
        assert gone.wait(10)


def test_lines_are_read_however_they_are_cut() -> None:
    text = (
        ': beat\n\nid: 1\r\nevent: a\r\ndata: {"x":\r\ndata: "\u2028"}\r\n\r\n'
        "id: 2\ndata:{}\n\nid: 3\n\nevent: end\ndata: {}\n\n"
    )
    whole = list(Lines().feed(text.encode()))
    assert whole == [
        {"id": "1", "event": "a", "data": '{"x":\n"\u2028"}'},
        {"id": "2", "data": "{}"},
        {"event": "end", "data": "{}"},
    ]
    drawn = random.Random(1)
    for _ in range(200):
        lines, found, rest = Lines(), [], text.encode()
        while rest:
            size = drawn.randint(1, 9)
            found += lines.feed(rest[:size])
            rest = rest[size:]
        assert found == whole


def test_a_job_knows_whether_it_has_ended() -> None:
    assert Job(id="j", kind="convert", state="expired", created="2026-01-01T00:00:00Z").done  # type: ignore[arg-type]
    assert not Job(id="j", kind="convert", state="cancelling", created="2026-01-01T00:00:00Z").done  # type: ignore[arg-type]


def test_a_quiet_job_outlasts_any_number_of_broken_streams() -> None:
    hasty = Retry(first=0.01, most=0.02, patience=0.2)
    begun = time.monotonic()
    with scripted(Service(streams=[0] * 60)) as server, Client(server.url, "asl_a_b", retry=hasty) as client:
        assert list(client.follow("j")) == EVENTS
    assert time.monotonic() - begun > 0.2


@pytest.mark.parametrize("kind", ["away", "silent"])
def test_the_time_to_wait_is_kept_though_the_server_is_away(kind: str) -> None:
    patient = Retry(first=0.05, most=5.0, patience=60.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = free_port() if kind == "away" else silent.getsockname()[1]
        started = time.monotonic()
        with Client(f"http://127.0.0.1:{port}", "asl_a_b", retry=patient) as client, pytest.raises(WaitTimeout):
            client.wait("j", timeout=1.5)
    assert 1.4 < time.monotonic() - started < 6
