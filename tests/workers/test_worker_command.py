"""`aslconvert worker` as a process: it works off the database, answers Prometheus and gives back what it holds."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from aslconvert.cli.main import main
from aslconvert.workers.jobs import Kind, NewJob, Queue, State
from aslconvert.workers.settings import Places

HERE = Path(__file__).parent


def figures(port: int) -> str:
    """What Prometheus is told."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        told: str = answer.read().decode()
    return told


def test_a_worker_runs_jobs_counts_them_and_gives_back_on_sigterm(quick: Path, migrated: bytes) -> None:
    (quick / "jobs.db").write_bytes(migrated)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "aslconvert.cli.main", "worker", "--folder", str(quick), "--engine", "small_engine:run",
        "--metrics-port", str(port), "--name", "alone",
    ]  # fmt: skip
    with Places(folder=quick).opened() as (store, blobs):
        model = blobs.put(io.BytesIO(b"a model")).hash

        def submit(**options: object) -> str:
            payload = {"model": model, "options": options}
            return store.submit(NewJob("tenant", Kind.CONVERT, Queue.CPU, payload, blobs=[model])).id

        first = submit(do="write")
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            wait_for(lambda: store.job(first).state is State.SUCCEEDED)
            counted = 'aslconvert_attempts_total{code="",outcome="succeeded"} 1.0'
            # It is counted after its outcome is stored.
            wait_for(lambda: counted in figures(port))
            told = figures(port)
            second = submit(do="count", to=100_000)
            wait_for(lambda: store.job(second).stage is not None)
            process.send_signal(signal.SIGTERM)
            _, written = process.communicate(timeout=60)
        assert process.returncode == 0
        assert counted in told
        assert 'aslconvert_jobs{queue="cpu",state="succeeded"} 1.0' in told
        lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
        assert [line["outcome"] for line in lines if line["event"] == "attempt ends"] == ["succeeded", "given_back"]
        assert {line["job"] for line in lines if "job" in line} == {first, second}
        found = store.job(second)
        assert (found.state, found.attempts_made) == (State.QUEUED, 0)
        assert [path.name for path in (quick / "work").iterdir()] == [".lock"]


def test_options_that_do_not_fit_are_told(quick: Path, capsys: object) -> None:
    assert main(["worker", "--folder", str(quick), "--device", "tpu"]) == 2
    assert main(["worker", "--folder", str(quick), "--queue", "fast"]) == 2
    assert main(["worker", "--folder", str(quick), "--name", ".."]) == 2
    assert main(["worker", "--folder", str(quick), "--storage", "ftp://nowhere"]) == 2


def wait_for(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
