"""Jobs over HTTP: what is refused at once, what is queued once, what is told while it runs and after it ended."""

import dataclasses
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Live, ended, problem

from aslconvert.converter.options import ConvertOptions
from aslconvert.service.jobs.options import Options
from aslconvert.service.security.callers import Scope
from aslconvert.workers.engine import NO_OPTION


@pytest.fixture(scope="module")
def idle(memory: Path) -> Iterator[Live]:
    """A service where nobody works."""
    import tempfile

    service = Live(Path(tempfile.mkdtemp(dir=memory)), requests_per_minute=1_000_000, running_jobs=10_000).start()
    yield service
    service.close()


@pytest.fixture(scope="module")
def working(memory: Path) -> Iterator[Live]:
    """A service with its embedded worker, and an engine that does what the options say."""
    import tempfile

    folder = Path(tempfile.mkdtemp(dir=memory))
    service = Live(folder, requests_per_minute=1_000_000, embedded=True, engine="service_engine:run").start()
    yield service
    assert service.stop() == 0
    service.close()


def asked(live: Live, tenant: str = "default", **more: Any) -> dict[str, Any]:
    model, dataset = live.things(tenant)
    return {"kind": "convert", "model": model, "dataset": dataset, **more}


def test_the_options_are_those_of_the_engine() -> None:
    engine = {field.name: field for field in dataclasses.fields(ConvertOptions)}
    assert set(Options.model_fields) == set(engine) - NO_OPTION
    for name, field in Options.model_fields.items():
        default = field.get_default(call_default_factory=True)
        wanted = engine[name].default
        assert (tuple(default) if isinstance(default, list) else default) == wanted, name


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"kind": "other"}, "body.kind"),
        ({"kind": "bench", "options": {"rounds": 2}}, "body.options.rounds"),
        ({"kind": "bench", "options": {"min_speedup": 2}}, "body.options.min_speedup"),
        ({"kind": "convert", "options": {"runtimes": ["torch"]}}, "body.options.runtimes"),
        ({"device": "tpu"}, "body.device"),
        ({"options": {"device": "cuda"}}, "body.options.device"),
        ({"options": {"metric": "evil.py:run"}}, "body.options.metric"),
        ({"options": {"budget_seconds": -1}}, "body.options.budget_seconds"),
        ({"options": {"max_drop": 1, "min_speedup": 2}}, "body.options"),
        ({"max_attempts": 1000}, "body.max_attempts"),
        ({"model": "../x"}, "body.model"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(idle: Live, change: dict[str, Any], entry: str) -> None:
    with idle.client() as client:
        answer = client.post("/v1/jobs", json={**asked(idle), **change})
        assert problem(answer) == (422, "invalid_request")
        assert answer.json()["entry"] == entry


def test_unknown_things_and_missing_data_are_told(idle: Live) -> None:
    body = asked(idle)
    with idle.client() as client, idle.client(tenant="other") as other:
        assert problem(client.post("/v1/jobs", json={**body, "dataset": None})) == (422, "needs_data")
        assert problem(client.post("/v1/jobs", json={**body, "model": "none"})) == (404, "model_not_found")
        assert problem(client.post("/v1/jobs", json={**body, "dataset": "none"})) == (404, "dataset_not_found")
        assert problem(other.post("/v1/jobs", json=body)) == (404, "model_not_found")
        assert problem(client.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}))[0] == 422


def test_a_bench_and_an_inspection_pass_conversions_and_a_gpu_job_waits_for_its_worker(idle: Live) -> None:
    body = asked(idle, "kinds")
    timing = {"runtimes": ["torch", "onnxruntime"], "shape": [1, 3, 32, 32], "rounds": 5}
    with idle.client(tenant="kinds") as client:
        bench_asked = {"kind": "bench", "model": body["model"], "options": timing}
        assert problem(client.post("/v1/jobs", json={**bench_asked, "dataset": body["dataset"]})) == (
            422,
            "takes_no_data",
        )
        gpu = client.post("/v1/jobs", json={**body, "device": "cuda"}).json()
        assert (gpu["device"], gpu["position"]) == ("cuda", 1)
        waiting = client.post("/v1/jobs", json=body).json()
        bench = client.post("/v1/jobs", json=bench_asked).json()
        assert (bench["kind"], bench["device"], bench["options"]) == ("bench", "cpu", timing)
        client.post("/v1/jobs", json={"kind": "inspect", "model": body["model"]})
        assert bench["position"] <= waiting["position"]
        for job, passed in ((waiting, 2), (bench, 0), (gpu, 0)):
            assert client.get(f"/v1/jobs/{job['id']}").json()["position"] == job["position"] + passed, job
        for one in (gpu, bench):
            client.post(f"/v1/jobs/{one['id']}/cancel")
            again = client.post(f"/v1/jobs/{one['id']}/retry").json()
            assert (again["kind"], again["device"], again["options"]) == (one["kind"], one["device"], one["options"])
        assert [one["id"] for one in client.get("/v1/jobs?kind=bench").json()["items"]][-1] == bench["id"]


def test_a_job_waits_is_cancelled_tried_again_and_deleted(idle: Live) -> None:
    with idle.client(tenant="life") as client:
        first = client.post("/v1/jobs", json=asked(idle, "life", options={"seed": 7}))
        assert first.status_code == 202
        job = first.json()
        assert (first.headers["location"], first.headers["retry-after"]) == (f"/v1/jobs/{job['id']}", "1")
        assert (job["state"], job["options"], job["position"] >= 1) == ("queued", {"seed": 7}, True)
        second = client.post("/v1/jobs", json=asked(idle, "life")).json()
        assert second["position"] == job["position"] + 1
        answer = client.get(f"/v1/jobs/{second['id']}")
        tag = answer.headers["etag"]
        assert client.get(f"/v1/jobs/{second['id']}", headers={"If-None-Match": tag}).status_code == 304
        assert problem(client.delete(f"/v1/jobs/{job['id']}")) == (409, "job_active")
        assert problem(client.post(f"/v1/jobs/{job['id']}/retry")) == (409, "job_not_retriable")
        for _ in range(2):
            cancelled = client.post(f"/v1/jobs/{job['id']}/cancel")
            assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
        moved = client.get(f"/v1/jobs/{second['id']}", headers={"If-None-Match": tag})
        assert (moved.status_code, moved.json()["position"]) == (200, job["position"])
        again = client.post(f"/v1/jobs/{job['id']}/retry")
        assert again.status_code == 202
        assert again.json()["options"] == {"seed": 7}
        assert again.json()["id"] != job["id"]
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert problem(client.get(f"/v1/jobs/{job['id']}")) == (404, "job_not_found")


def test_lists_are_filtered_and_complete(idle: Live) -> None:
    with idle.client(tenant="lists") as client:
        body = asked(idle, "lists")
        made = [client.post("/v1/jobs", json=body).json()["id"] for _ in range(5)]
        inspecting = client.post("/v1/jobs", json={"kind": "inspect", "model": body["model"]}).json()["id"]
        client.post(f"/v1/jobs/{made[0]}/cancel")

        def ids(**params: Any) -> list[str]:
            found: list[str] = []
            while True:
                page = client.get("/v1/jobs", params={"limit": 2, **params}).json()
                found += [job["id"] for job in page["items"]]
                if page["next"] is None:
                    return found
                params["cursor"] = page["next"]

        assert ids() == [inspecting, *reversed(made)]
        assert ids(kind="inspect") == [inspecting]
        assert ids(state="cancelled") == [made[0]]
        assert ids(model=body["model"], state="queued") == [inspecting, *reversed(made[1:])]
        assert ids(model="other") == []
        assert problem(client.get("/v1/jobs", params={"state": "no"})) == (422, "invalid_request")


def test_one_key_makes_one_job_however_often_and_at_once_it_is_used(idle: Live) -> None:
    body = asked(idle, "keys")
    key = idle.key(tenant="keys")
    answers: list[httpx.Response] = []

    def ask() -> None:
        with idle.client(key=key) as client:
            answers.append(client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"}))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    with idle.client(key=key) as client:
        assert len(client.get("/v1/jobs").json()["items"]) == 1
        changed = {**body, "max_attempts": 2}
        refused = client.post("/v1/jobs", json=changed, headers={"Idempotency-Key": "k"})
        assert problem(refused) == (422, "idempotency_mismatch")
        assert problem(client.post("/v1/jobs", json=body, headers={"Idempotency-Key": ""}))[0] == 422


def test_quotas_hold(fresh: Callable[..., Live]) -> None:
    live = fresh(running_jobs=2)
    with live.client() as client:
        body = asked(live)
        made = [client.post("/v1/jobs", json=body).json()["id"] for _ in range(2)]
        assert problem(client.post("/v1/jobs", json=body)) == (403, "quota_jobs")
        told = client.get("/v1/usage").json()
        assert (told["used"]["running_jobs"], told["quotas"]["running_jobs"]) == (2, 2)
        assert told["used"]["storage_bytes"] == len(b"a model") + len(b"a model and data")
        client.post(f"/v1/jobs/{made[0]}/cancel")
        assert client.post("/v1/jobs", json=body).status_code == 202
        with sqlite3.connect(live.folder / "jobs.db") as database:
            database.execute("INSERT INTO tenants VALUES ('default', '{\"running_jobs\": 100, \"device_minutes\": 0}')")
        assert problem(client.post("/v1/jobs", json=body)) == (403, "quota_device_time")
        with live.client(tenant="other") as other:
            assert other.post("/v1/jobs", json=asked(live, "other")).status_code == 202


def test_a_job_runs_here_and_tells_what_came_of_it(working: Live) -> None:
    with working.client() as client:
        job = client.post("/v1/jobs", json=asked(working)).json()
        done = ended(client, job["id"])
        assert done["state"] == "succeeded", done
        assert done["missed"] == {"code": "target", "message": "not quite", "hint": ""}
        assert done["links"]["report"] == f"/v1/jobs/{job['id']}/report"
        assert done["expires"] > done["finished"] >= done["started"] >= done["created"]
        forecast = client.post("/v1/jobs", json={"kind": "inspect", "model": job["model"]}).json()
        assert ended(client, forecast["id"])["forecast"] == {"points": []}
        timed = client.post("/v1/jobs", json={"kind": "bench", "model": job["model"], "options": {"rounds": 3}}).json()
        assert ended(client, timed["id"])["bench"] == {"rows": [{"rounds": 3}]}
        listed = {one["id"]: one for one in client.get("/v1/jobs").json()["items"]}
        assert (listed[forecast["id"]]["forecast"], listed[timed["id"]]["bench"]) == (None, None)
        failing = client.post("/v1/jobs", json=asked(working, options={"metric": "fail"})).json()
        failed = ended(client, failing["id"])
        assert failed["state"] == "failed"
        assert failed["error"]["code"] == "user_trouble"
        assert failed["error"]["type"] == "https://aslconvert.dev/problems/user-trouble"
        assert client.get("/v1/usage").json()["used"]["device_minutes"] > 0
        before = client.get("/v1/usage").json()["used"]["device_minutes"]
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert client.get("/v1/usage").json()["used"]["device_minutes"] == before


def test_a_running_job_is_cancelled_and_tells_how_long_it_takes(working: Live) -> None:
    with working.client() as client:
        job = client.post("/v1/jobs", json=asked(working, options={"metric": "count", "seed": 10_000})).json()
        while (seen := client.get(f"/v1/jobs/{job['id']}").json())["eta_s"] is None:
            assert seen["state"] in {"queued", "running"}
        assert seen["progress"]["total"] == 10_000
        assert 0 < seen["eta_s"] < 10_000
        assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelling"
        assert ended(client, job["id"])["state"] == "cancelled"


def test_another_tenants_job_does_not_exist(idle: Live) -> None:
    with idle.client() as client, idle.client(Scope.READ, Scope.WRITE, tenant="other") as other:
        job = client.post("/v1/jobs", json=asked(idle)).json()["id"]
        for answer in (
            other.get(f"/v1/jobs/{job}"),
            other.get(f"/v1/jobs/{job}/events"),
            other.delete(f"/v1/jobs/{job}"),
            other.post(f"/v1/jobs/{job}/cancel"),
            other.post(f"/v1/jobs/{job}/retry"),
        ):
            assert problem(answer) == (404, "job_not_found")
        assert other.get("/v1/jobs").json()["items"] == []
