"""Reports that no conversion writes: what they cost and what they may do to an answer has bounds."""

import json
from typing import Any

import pytest
from live import Live
from service_engine import report
from sqlalchemy import update

from aslconvert.service.reports.variants import MOST_BYTES, MOST_VARIANTS, Reports, artifacts_of, variants_of
from aslconvert.workers.errors import InternalError
from aslconvert.workers.jobs import Job, Kind, NewJob, Queue
from aslconvert.workers.jobs.submitting import submit
from aslconvert.workers.jobs.tables import jobs


def job_with(live: Live, text: str) -> tuple[Reports, Job]:
    _, _, database, blobs = live._stores
    blob = blobs.put([text.encode()])
    job = database.write(lambda at: submit(at, NewJob("default", Kind.CONVERT, Queue.CPU, {}), idempotency=None))
    result = {"files": {"report.json": {"sha256": blob.hash, "size": blob.size}}}
    return Reports(blobs), Job(**{**vars(job), "result": result})


@pytest.mark.parametrize("latency", ["Infinity", "1e400", "9" * 400, "NaN"])
def test_a_latency_that_is_no_number_is_left_out(live: Live, latency: str) -> None:
    told: dict[str, Any] = report()
    for runtime in told["variants"][0]["latency"].values():
        runtime["p50_ms"] = "here"
    reports, job = job_with(live, json.dumps(told).replace('"here"', latency))
    first, second = variants_of(reports, job)
    assert (first.latency_ms, second.latency_ms) == (None, 10.0)
    assert "Infinity" not in first.model_dump_json()


def test_a_report_that_is_too_large_is_told_as_a_file_alone(live: Live) -> None:
    reports, job = job_with(live, json.dumps({**report(), "notes": "x" * MOST_BYTES}))
    with pytest.raises(InternalError):
        variants_of(reports, job)
    assert [file.name for file in artifacts_of(reports, job)] == ["report.json"]


def test_variants_have_a_number(live: Live) -> None:
    told: dict[str, Any] = report()
    told["variants"] *= MOST_VARIANTS
    reports, job = job_with(live, json.dumps(told))
    assert len(variants_of(reports, job)) == MOST_VARIANTS


def test_one_damaged_report_does_not_hide_those_of_the_other_jobs(live: Live) -> None:
    model, data = live.things()
    _, _, database, blobs = live._stores
    with live.client() as client:
        made = [
            client.post("/v1/jobs", json={"kind": "convert", "model": model, "dataset": data}).json()["id"]
            for _ in range(2)
        ]
        for job, text in zip(made, ("{", json.dumps(report())), strict=True):
            blob = blobs.put([text.encode()])
            result = {"files": {"report.json": {"sha256": blob.hash, "size": blob.size}}}
            ended = update(jobs).where(jobs.c.id == job).values(state="succeeded", result=result)
            database.write(lambda at, ended=ended: at.connection.execute(ended))
        told = client.get(f"/v1/models/{model}/variants").json()
        assert told["damaged"] == made[:1]
        assert {variant["job"] for variant in told["items"]} == set(made[1:])
