"""Streams of events: complete, in order, taken up after any number, with heartbeats and an end."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Live, ended, problem
from test_jobs import asked

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def working(memory: Path) -> Iterator[Live]:
    import tempfile

    folder = Path(tempfile.mkdtemp(dir=memory))
    service = Live(
        folder, requests_per_minute=1_000_000, embedded=True, engine="service_engine:run", heartbeat_seconds=0.5
    ).start()
    yield service
    service.close()


Told = tuple[str | None, str, Any]


def events(lines: Iterator[str]) -> Iterator[Told]:
    """The events of a stream, heartbeats as ``("", "comment", None)``."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            yield ("", "comment", None)
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield (fields.get("id"), fields["event"], json.loads(fields["data"]))
            fields = {}


def followed(client: httpx.Client, job: str, **headers: str) -> list[Told]:
    with client.stream("GET", f"/v1/jobs/{job}/events", headers={**STREAM, **headers}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [event for event in events(answer.iter_lines()) if event[1] != "comment"]


def test_a_stream_tells_everything_once_and_ends(working: Live) -> None:
    with working.client() as client:
        job = client.post("/v1/jobs", json=asked(working, options={"metric": "count", "seed": 20})).json()["id"]
        with ThreadPoolExecutor(8) as pool:
            streams = list(pool.map(lambda _: followed(client, job), range(8)))
        first = streams[0]
        assert all(stream == first for stream in streams)
        assert [number for number, kind, _ in first if kind != "end"] == [str(n + 1) for n in range(len(first) - 1)]
        assert first[-1] == (None, "end", {"state": "succeeded"})
        notes = [data["text"] for _, kind, data in first if kind == "note"]
        assert notes == [f"number {n}" for n in range(20)]
        # Taken up again, long after the end, from any number.
        middle = len(first) // 2
        assert followed(client, job, **{"Last-Event-ID": str(middle)}) == first[middle:]
        assert followed(client, job, **{"Last-Event-ID": "99999"}) == first[-1:]
        assert problem(client.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": "x"})) == (422, "bad_event_id")


def test_a_list_has_the_same_in_pages(working: Live) -> None:
    with working.client() as client:
        job = client.post("/v1/jobs", json=asked(working)).json()["id"]
        ended(client, job)
        wanted = [(number, kind, data) for number, kind, data in followed(client, job) if kind != "end"]
        found: list[Told] = []
        params: dict[str, Any] = {"limit": 3}
        while True:
            answer = client.get(f"/v1/jobs/{job}/events", params=params, headers={"Accept": "application/json"}).json()
            found += [(str(one["number"]), one["kind"], one["data"]) for one in answer["items"]]
            if answer["next"] is None:
                break
            params["cursor"] = answer["next"]
        assert found == wanted
        rest = client.get(f"/v1/jobs/{job}/events?after=4", headers={"Accept": "application/json"}).json()["items"]
        assert [one["number"] for one in rest] == list(range(5, len(wanted) + 1))


def test_a_silent_stream_has_heartbeats_and_ends_when_the_key_is_revoked(fresh: Callable[..., Live]) -> None:
    live = fresh(heartbeat_seconds=0.2)
    with live.client() as admin:
        key = admin.post("/v1/keys", json={"name": "n", "scopes": ["read", "write"]}).json()
        with live.client(key=key["key"]) as client:
            job = client.post("/v1/jobs", json=asked(live)).json()["id"]
            with client.stream("GET", f"/v1/jobs/{job}/events", headers=STREAM) as answer:
                told = events(answer.iter_lines())
                beats = [next(told) for _ in range(4)]
                assert [kind for _, kind, _ in beats].count("comment") >= 3
                admin.delete(f"/v1/keys/{key['id']}")
                assert [kind for _, kind, _ in told if kind != "comment"] == []


def test_a_deleted_job_ends_its_streams(fresh: Callable[..., Live]) -> None:
    live = fresh()
    with live.client() as client:
        job = client.post("/v1/jobs", json=asked(live)).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job}/events", headers=STREAM) as answer:
            told = events(answer.iter_lines())
            assert ("1", "queued", {}) in [next(told) for _ in range(2)]
            with live.client() as other:
                other.post(f"/v1/jobs/{job}/cancel")
                other.delete(f"/v1/jobs/{job}")
            assert next(event for event in told if event[1] == "end")[2]["state"] in {"cancelled", "deleted"}


def test_streams_do_not_hold_up_a_stop_and_go_on_after_a_start(fresh: Callable[..., Live]) -> None:
    live = fresh()
    with live.client() as client:
        job = client.post("/v1/jobs", json=asked(live)).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job}/events", headers=STREAM) as answer:
            told = events(answer.iter_lines())
            seen = [next(told) for _ in range(2)]
            begun = time.monotonic()
            assert live.process is not None
            live.process.send_signal(signal.SIGTERM)
            rest = list(told)
            assert live.process.wait(30) == 0
            assert time.monotonic() - begun < 8
        assert "end" not in [kind for _, kind, _ in [*seen, *rest]]
        live.start()
        client.post(f"/v1/jobs/{job}/cancel")
        again = followed(client, job, **{"Last-Event-ID": "1"})
        assert [kind for _, kind, _ in again] == ["cancelled", "end"]
