"""A real conversion as a job: uploaded bytes in, verified artifacts in the blob store out."""

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aslconvert.converter.errors import UsageError
from aslconvert.workers import engine
from aslconvert.workers.database import Database
from aslconvert.workers.jobs import Job, JobStore, Kind, NewJob, Queue, State
from aslconvert.workers.policy import Outcome, SupervisorSettings
from aslconvert.workers.sandbox.limits import Limits
from aslconvert.workers.storage import Blobs, LocalBlobs
from aslconvert.workers.supervisor import Supervisor

pytestmark = pytest.mark.long

# Of what the engine is made quick with.
PLACES = os.pathsep.join(str(Path(__file__).parents[up] / place) for up, place in ((0, ""), (1, "converter/pipeline")))
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CXX": "no-such-compiler", "PYTHONPATH": PLACES}
QUICK = pytest.mark.parametrize("supervisor", ["quick_engine:run"], indirect=True)


@pytest.fixture(scope="module")
def model() -> bytes:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(48, 3, 1)).eval()
    file = io.BytesIO()
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: batch},)), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def data() -> bytes:
    noise = torch.randn(60, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    file = io.BytesIO()
    np.savez(file, input=nn.functional.avg_pool2d(noise, 3, stride=1, padding=1).numpy())
    return file.getvalue()


@pytest.fixture
def supervisor(request: pytest.FixtureRequest, quick: Path, migrated: bytes) -> Iterator[Supervisor]:
    """Without a compiler: what is compiled takes most of a conversion, and no test here looks at it.

    A parameter is another engine than the real one.
    """
    (quick / "jobs.db").write_bytes(migrated)
    database = Database(f"sqlite:///{quick / 'jobs.db'}")
    settings = SupervisorSettings(limits=Limits(memory=12 << 30), retry_delay=0.0, environment=ENVIRONMENT)
    settings = dataclasses.replace(settings, engine=getattr(request, "param", settings.engine))
    blobs = Blobs(database, LocalBlobs(quick / "blobs"))
    yield Supervisor(JobStore(database), blobs, folder=quick / "work", settings=settings)
    database.close()


def run(supervisor: Supervisor, kind: Kind, model: bytes, data: bytes | None, **options: object) -> tuple[Outcome, Job]:
    payload: dict[str, object] = {"model": supervisor.blobs.put(io.BytesIO(model)).hash, "options": options}
    if data is not None:
        payload["data"] = supervisor.blobs.put(io.BytesIO(data)).hash
    job = supervisor.store.submit(NewJob("tenant", kind, Queue.CPU, payload))
    claim = supervisor.store.claim([Queue.CPU], worker="one")
    assert claim is not None
    return supervisor.see_through(claim), supervisor.store.job(job.id)


@QUICK
def test_a_conversion_gives_the_artifacts_that_its_report_describes(
    supervisor: Supervisor, model: bytes, data: bytes
) -> None:
    outcome, job = run(
        supervisor,
        Kind.CONVERT,
        model,
        data,
        min_speedup=1.01,
        heal_steps=5,
        threads=1,
        artifacts=["portable", "onnx", "weights"],
    )
    assert (outcome, job.problem) == (Outcome.SUCCEEDED, None)
    assert job.result is not None
    files = job.result["files"]
    with supervisor.blobs.store.open(files["report.json"]["sha256"]) as file:
        report = json.load(file)
    assert {entry["path"]: entry["sha256"] for entry in report["artifacts"]}.items() <= {
        name: entry["sha256"] for name, entry in files.items()
    }.items()
    assert {"portable", "onnx", "weights"} <= {entry["kind"] for entry in report["artifacts"]}
    assert all(entry["reloaded"] for entry in report["artifacts"])
    stages = [event.data["stage"] for event in supervisor.store.events_after(job.id) if event.type == "stage"]
    assert stages[0] == "intake"
    assert "measure" in stages
    assert str(supervisor.folder) not in json.dumps(report)


@pytest.mark.deep
def test_a_conversion_heals_in_two_processes_of_the_sandbox(supervisor: Supervisor, model: bytes, data: bytes) -> None:
    supervisor.settings = dataclasses.replace(supervisor.settings, processes=2)
    wanted: dict[str, object] = {"min_speedup": 1.01, "heal_steps": 3, "threads": 1, "artifacts": ["portable"]}
    outcome, job = run(supervisor, Kind.CONVERT, model, data, **wanted)
    events = supervisor.store.events_after(job.id)
    (held,) = [event.data for event in events if event.type == "confined"]
    if held["network"] != "namespace":
        pytest.skip(f"THE KERNEL GIVES JOBS NO LOOPBACK OF THEIR OWN HERE: {held['missing']}")
    assert (outcome, job.problem) == (Outcome.SUCCEEDED, None)
    assert job.result is not None
    assert (job.result["files"].keys()) >= {"report.json"}
    assert "healed in 2 processes" in " ".join(str(event.data) for event in events if event.type == "note")


def test_what_is_wrong_with_a_job_is_told(supervisor: Supervisor, model: bytes, data: bytes) -> None:
    unknown, job = run(supervisor, Kind.CONVERT, model, data, plan="/etc/passwd")
    assert (unknown, job.state) == (Outcome.FAILED, State.FAILED)
    assert job.problem is not None
    assert (job.problem.code, job.problem.kind) == ("option", "user")
    broken = bytearray(model)
    broken[len(broken) // 2] ^= 255
    _, job = run(supervisor, Kind.CONVERT, bytes(broken[: len(broken) - 50]), data)
    assert job.problem is not None
    assert job.problem.kind == "user"
    assert job.problem.code.startswith("archive_")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.md", "no image")
    _, job = run(supervisor, Kind.CONVERT, model, file.getvalue())
    assert job.problem is not None
    assert (job.problem.code, job.problem.kind) == ("kind_unknown", "user")
    _, job = run(supervisor, Kind.CONVERT, model, None)
    assert job.problem is not None
    assert job.problem.code == "needs_data"


@QUICK
def test_an_inspection_predicts_without_data(supervisor: Supervisor, model: bytes) -> None:
    outcome, job = run(supervisor, Kind.INSPECT, model, None, threads=1)
    assert job.problem is None
    assert outcome is Outcome.SUCCEEDED
    assert job.result is not None
    forecast = job.result["forecast"]
    assert forecast["sites"] == 2
    assert [point["speedup"] > 0 for point in forecast["points"]]
    assert forecast["device"]["threads"] == 1


def test_a_bench_times_the_runtimes_asked_for(supervisor: Supervisor, model: bytes) -> None:
    outcome, job = run(supervisor, Kind.BENCH, model, None, threads=1, rounds=3, runtimes=["torch", "onnxruntime"])
    assert (outcome, job.problem) == (Outcome.SUCCEEDED, None)
    assert job.result is not None
    rows = job.result["bench"]["rows"]
    assert {row["runtime"]: row["latency"]["p50_ms"] > 0 for row in rows} == {"torch": True, "onnxruntime": True}
    assert job.result["bench"]["device"]["threads"] == 1


@pytest.mark.parametrize(
    "options", [{"plan": "x"}, {"rounds": "3"}, {"rounds": 1}, {"shape": [1, "3"]}, {"threads": True}]
)
def test_options_that_no_bench_has_are_told(tmp_path: Path, model: bytes, options: dict[str, object]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").write_bytes(model)
    with pytest.raises(UsageError) as refused:
        engine.run(
            kind="bench", payload={"model": "model", "options": options}, folder=tmp_path, tell=lambda *_, **__: None
        )
    assert refused.value.code == "option"
