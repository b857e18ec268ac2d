"""Reports that no conversion writes: what they cost and what they may do to an answer has bounds."""

import json
from typing import Any

import pytest
from live import Live
from service_engine import report

from aslconvert.service.reports.variants import MOST_BYTES, MOST_VARIANTS, Reports, artifacts_of, variants_of
from aslconvert.workers.errors import InternalError
from aslconvert.workers.jobs import Job, Kind, NewJob, Queue
from aslconvert.workers.jobs.submitting import submit


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
