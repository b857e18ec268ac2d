"""How a job stands, told to many: few looks at the database, nothing older than the question, the same either way."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from live import Live, codes, problem

from aslconvert.service.context import Context
from aslconvert.service.jobs import glances as module
from aslconvert.service.jobs.glances import Glance, Glances
from aslconvert.service.security.callers import Scope
from aslconvert.workers.errors import JobNotFound


class Counted(Glances):
    """Looks at a number instead of a database, which may be slow and may fail; what is tested is who shares a look."""

    def __init__(self) -> None:
        super().__init__(Context(settings=None, jobs=None, blobs=None, secrets=None))  # type: ignore[arg-type]
        self.version = self.looks = 0
        self.slow: threading.Event | None = None

    def _read(self, job_id: str, tenant: str) -> Glance:
        self.looks += 1
        version = self.version
        if self.slow is not None:
            assert self.slow.wait(30)
        if job_id == "none":
            raise JobNotFound(job_id)
        return Glance(f'W/"{version}"', b"{}")


def test_many_who_ask_at_once_cost_one_look() -> None:
    async def ask() -> None:
        counted = Counted()
        found = await asyncio.gather(*(counted.look("a", "t") for _ in range(200)))
        assert {one.tag for one in found} == {'W/"0"'}
        assert counted.looks == 1
        await asyncio.gather(counted.look("a", "other"), counted.look("b", "t"))
        assert counted.looks == 3

    asyncio.run(ask())


def test_nobody_is_told_what_was_true_before_they_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "APART_SECONDS", 0.001)

    async def ask() -> None:
        counted, release = Counted(), threading.Event()
        counted.slow = release
        first = asyncio.create_task(counted.look("a", "t"))
        while not counted.looks:
            await asyncio.sleep(0.001)
        # A look is on its way, which saw the job as it was.
        counted.version = 1
        second = asyncio.create_task(counted.look("a", "t"))
        await asyncio.sleep(0.01)
        release.set()
        assert ((await first).tag, (await second).tag) == ('W/"0"', 'W/"1"')

    asyncio.run(ask())


def test_one_who_goes_away_takes_nothing_from_the_others_and_errors_are_everybodys() -> None:
    async def ask() -> None:
        counted = Counted()
        leaving, staying = (asyncio.create_task(counted.look("a", "t")) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).tag == 'W/"0"'
        told = await asyncio.gather(*(counted.look("none", "t") for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in told] == [JobNotFound] * 3
        # An error is not kept.
        with pytest.raises(JobNotFound):
            await counted.look("none", "t")
        assert counted.looks == 3

    asyncio.run(ask())


def _submitted(live: Live, client: httpx.Client) -> str:
    model, dataset = live.things()
    return str(client.post("/v1/jobs", json={"kind": "convert", "model": model, "dataset": dataset}).json()["id"])


def _told(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    return answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k not in ("date", "server")}


def test_the_short_way_and_the_framework_give_the_same_answer(fresh: Any) -> None:
    live: Live = fresh(metrics=True)
    with live.client() as client:
        path = f"/v1/jobs/{_submitted(live, client)}"
        # A key that was never seen is the framework's; the second time it is known.
        with live.client() as stranger:
            long_way = stranger.get(path)
            tag = long_way.headers["etag"]
            assert _told(stranger.get(path)) == _told(long_way)
        with live.client() as stranger:
            unchanged = stranger.get(path, headers={"If-None-Match": f'"x", {tag}'})
            assert unchanged.status_code == 304
            assert _told(stranger.get(path, headers={"If-None-Match": f'"x", {tag}'})) == _told(unchanged)
        counted = client.get("/metrics").text
        assert 'aslconvert_requests_total{method="GET",route="/v1/jobs/{job_id}",status="304"} 2.0' in counted


def test_what_is_changed_is_told_at_once_also_by_the_short_way(live: Live) -> None:
    with live.client() as client:
        job = _submitted(live, client)
        states = [client.get(f"/v1/jobs/{job}").json()["state"] for _ in range(3)]
        client.post(f"/v1/jobs/{job}/cancel")
        states.append(client.get(f"/v1/jobs/{job}").json()["state"])
        assert states == ["queued", "queued", "queued", "cancelled"]


def test_refusals_are_those_of_the_framework(live: Live) -> None:
    with live.client() as client, live.client(Scope.WRITE) as writer, live.client(tenant="another") as other:
        job = _submitted(live, client)
        for one, expected in ((writer, (403, "forbidden")), (other, (404, "job_not_found"))):
            # The first look makes the key known.
            answers = [problem(one.get(f"/v1/jobs/{job}")) for _ in range(3)]
            assert answers == [expected] * 3
        assert problem(client.get("/v1/jobs/none")) == (404, "job_not_found")
        revoked = live.key()
        with live.client(key=revoked) as gone:
            assert gone.get(f"/v1/jobs/{job}").status_code == 200
            assert client.delete(f"/v1/keys/{revoked.split('_')[1]}").status_code == 204
            assert problem(gone.get(f"/v1/jobs/{job}")) == (401, "unauthorized")


def test_known_callers_have_their_rate_too(fresh: Any) -> None:
    service: Live = fresh(requests_per_minute=60)
    with service.client() as client:
        job = _submitted(service, client)
        answers = [client.get(f"/v1/jobs/{job}") for _ in range(30)]
        assert set(codes(answers)) == {200, 429}
        assert problem(answers[codes(answers).index(429)]) == (429, "too_many_requests")
        assert int(answers[codes(answers).index(429)].headers["retry-after"]) >= 1
