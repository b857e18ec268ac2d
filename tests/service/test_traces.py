"""The request that makes a job and the attempt that works on it are one trace, which the caller's own may hold."""

from collections.abc import Callable

import pytest
from collecting import collector
from live import Live, ended
from test_jobs import asked


def test_a_job_is_one_trace_from_the_request_to_its_stages(
    fresh: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as collected:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collected.url)
        live = fresh(embedded=True, engine="service_engine:run")
        trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        with live.client() as client:
            headers = {"traceparent": f"00-{trace}-{caller}-01"}
            answer = client.post("/v1/jobs", json=asked(live, options={"metric": "write"}), headers=headers)
            assert answer.status_code == 202, answer.text
            ended(client, answer.json()["id"])
            # What is no traceparent begins a trace of its own.
            body = asked(live, options={"metric": "fail"})
            other = client.post("/v1/jobs", json=body, headers={"traceparent": "00-zz"}).json()["id"]
            ended(client, other)
        live.stop()
    spans = {span.id: span for span in collected.spans}
    attempts = {span.attributes["aslconvert.job.id"]: span for span in spans.values() if span.name == "attempt convert"}
    attempt = attempts[answer.json()["id"]]
    request = spans[attempt.parent]
    assert (request.name, request.parent, request.attributes["http.route"]) == ("POST /v1/jobs", caller, "/v1/jobs")
    assert {span.trace for span in (attempt, request)} == {trace}
    assert "at" in {span.name for span in spans.values() if span.parent == attempt.id}
    failed = attempts[other]
    assert (failed.failed, failed.attributes["aslconvert.code"]) == (True, "user_trouble")
    assert spans[failed.parent].parent == ""
    assert failed.trace != trace
