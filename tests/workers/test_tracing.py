"""Spans of real attempts, as a collector gets them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import Collector, collector
from test_supervisor import blobs, claimed, place, store, submit, supervisor  # noqa: F401  fixtures

from aslconvert.workers import tracing
from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.jobs import JobStore
from aslconvert.workers.policy import Outcome
from aslconvert.workers.storage import Blobs
from aslconvert.workers.supervisor import Supervisor

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as made:
        monkeypatch.setenv(ENDPOINT, made.url)
        monkeypatch.setattr(tracing, "_tracer", None)
        yield made


def test_an_attempt_and_its_stages_are_told(
    store: JobStore,  # noqa: F811
    blobs: Blobs,  # noqa: F811
    supervisor: Supervisor,  # noqa: F811
    collected: Collector,
) -> None:
    provider = tracing.set_up_tracing("a-worker")
    assert provider is not None
    job = submit(store, blobs, do="write")
    assert supervisor.see_through(claimed(store)) is Outcome.SUCCEEDED
    bad = submit(store, blobs, do="fail", kind="user")
    assert supervisor.see_through(claimed(store)) is Outcome.FAILED
    provider.shutdown()
    assert {span.of for span in collected.spans} == {"a-worker"}
    first, second = [span for span in collected.spans if span.name == "attempt convert"]
    wanted: dict[str, Any] = {
        "aslconvert.job.id": job.id, "aslconvert.attempt": 1, "aslconvert.queue": "cpu", "aslconvert.worker": "one",
        "aslconvert.outcome": "succeeded", "aslconvert.code": "",
    }  # fmt: skip
    assert first.attributes == wanted
    assert (first.parent, first.failed) == ("", False)
    assert second.attributes == {
        **wanted, "aslconvert.job.id": bad.id, "aslconvert.outcome": "failed", "aslconvert.code": "user_trouble",
    }  # fmt: skip
    assert second.failed
    stages = [span for span in collected.spans if span.attributes.get("aslconvert.stage") == "at work"]
    assert [(stage.parent, stage.trace) for stage in stages] == [(one.id, one.trace) for one in (first, second)]
    assert first.trace != second.trace


def test_where_nobody_collects_nothing_of_it_is_imported() -> None:
    code = (
        "import sys, aslconvert.workers.supervisor, aslconvert.workers.tracing as tracing;"
        "assert tracing.set_up_tracing('x') is None;"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": "/usr/bin:/bin"})


def test_what_is_missing_or_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(UserError) as wrong:
        tracing.set_up_tracing("x")
    assert wrong.value.code == "tracing_protocol"
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")
    # As if it were not installed.
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InfrastructureError) as missing:
        tracing.set_up_tracing("x")
    assert (missing.value.code, missing.value.hint) == ("tracing_missing", "pip install 'aslconvert[otel]'")


def test_a_worker_that_cannot_trace_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aslconvert.cli.main", "worker", "--folder", str(tmp_path / "data")]
    environment = {"PATH": "/usr/bin:/bin", ENDPOINT: "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tracing_protocol" in done.stderr
    assert not (tmp_path / "data").exists()
