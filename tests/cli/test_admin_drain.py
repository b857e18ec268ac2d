"""`aslconvert admin drain`: real workers finish the job that they have, take no other, and end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "faults"))
sys.path.insert(0, str(Path(__file__).parent.parent / "workers"))

import cluster as clusters

from aslconvert.cli.main import main
from aslconvert.workers.jobs import JobStore, Kind, NewJob, Queue, State
from aslconvert.workers.settings import Places
from aslconvert.workers.storage import Blobs

ENGINES = Path(__file__).parent.parent / "workers"


@pytest.fixture
def place() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def count(store: JobStore, blobs: Blobs, to: int) -> str:
    """Submit a job that takes 0.02 s a number."""
    model = blobs.put(io.BytesIO(b"a model")).hash
    options = {"model": model, "options": {"do": "count", "to": to}}
    return store.submit(NewJob("tenant", Kind.CONVERT, Queue.CPU, options, blobs=[model])).id


def test_a_worker_that_looks_into_the_database_ends_after_its_job(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [
        sys.executable, "-m", "aslconvert.cli.main", "worker", "--folder", str(place), "--engine", "small_engine:run",
        "--name", "alone",
    ]  # fmt: skip
    drain = ["admin", "drain", "alone", "--folder", str(place), "--json"]
    with Places(folder=place).opened() as (store, blobs):
        first, second = count(store, blobs, 200), count(store, blobs, 1)
        environment = {**os.environ, "PYTHONPATH": str(ENGINES)}
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
            clusters.wait_for(lambda: store.job(first).stage is not None)
            capfd.readouterr()
            assert main([*drain, "--timeout", "0"]) == 75
            assert json.loads(capfd.readouterr().out) == {"worker": "alone", "drained": False}
            assert main([*drain, "--timeout", "120"]) == 0
            assert process.wait(60) == 0
        assert [store.job(job).state for job in (first, second)] == [State.SUCCEEDED, State.QUEUED]
        assert store.job(first).attempts_made == 1
    # What was asked of that worker is not asked of the next of its name.
    assert [path.name for path in (place / "work").iterdir()] == [".lock"]
    assert main(drain) == 2


@pytest.mark.skipif(clusters.redis_server() is None, reason="NO REDIS HERE: apt-get install redis-server")
def test_a_worker_that_hears_of_jobs_ends_after_its_job_and_another_goes_on(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with clusters.cluster(place, names=("one",)) as cluster:
        name = f"one-{cluster.started}"
        drain = [
            "admin", "drain", name, "--folder", str(place), "--redis", cluster.redis.url,
            "--database-url", cluster.url, "--json",
        ]  # fmt: skip
        first = count(cluster.store, cluster.blobs, 300)
        cluster.outbox.wake()
        clusters.wait_for(lambda: cluster.store.job(first).stage is not None)
        second = count(cluster.store, cluster.blobs, 1)
        cluster.outbox.wake()
        capfd.readouterr()
        assert main([*drain, "--timeout", "120", "--stay"]) == 0
        assert json.loads(capfd.readouterr().out) == {"worker": name, "drained": True}
        assert cluster.workers["one"].poll() is None
        assert cluster.store.job(second).state is State.QUEUED
        assert main([*drain, "--timeout", "120"]) == 0
        capfd.readouterr()
        assert cluster.workers["one"].wait(60) == 0
        found = cluster.store.job(first)
        assert (found.state, found.attempts_made) == (State.SUCCEEDED, 1)
        assert cluster.store.job(second).state is State.QUEUED
        cluster.start_worker("one")
        clusters.wait_for(lambda: cluster.store.job(second).state is State.SUCCEEDED)
        assert main(drain) == 2
        assert json.loads(capfd.readouterr().out)["error"]["code"] == "no_such_worker"


def test_what_is_no_name_of_a_worker_is_told(place: Path) -> None:
    assert main(["admin", "drain", "one", "--stay", "--folder", str(place)]) == 2
    assert main(["admin", "drain", "*", "--folder", str(place)]) == 2
    assert not (place / "work").exists()
