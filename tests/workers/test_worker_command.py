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

import pytest

from aslconvert.cli.main import main
from aslconvert.cli.working import settings_for
from aslconvert.workers.errors import UserError
from aslconvert.workers.jobs import Kind, NewJob, Queue, State
from aslconvert.workers.policy import SupervisorSettings
from aslconvert.workers.sandbox.limits import Limits
from aslconvert.workers.settings import Places

HERE = Path(__file__).parent


def figures(port: int) -> str:
    """What Prometheus is told."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        told: str = answer.read().decode()
    return told


def settings(device: str | None) -> tuple[tuple[Queue, ...], list[int], SupervisorSettings]:
    return settings_for(queues=None, device=device, engine=None, strict=False, limits=Limits())


@pytest.mark.parametrize(
    ("device", "queue", "seen", "processes"),
    [(None, "cpu", "", 1), ("cpu", "cpu", "", 1), ("cuda:3", "cuda", "3", 1), ("cuda:2,cuda:0", "cuda", "2,0", 2)],
)
def test_a_worker_of_several_gpus_heals_in_a_process_each(
    device: str | None, queue: str, seen: str, processes: int
) -> None:
    queues, gpus, made = settings(device)
    assert (queues, ",".join(map(str, gpus))) == ((Queue(queue),), seen)
    assert (made.environment["CUDA_VISIBLE_DEVICES"], made.processes) == (seen, processes)


@pytest.mark.parametrize("device", ["cuda", "cuda:0,", "cpu,cuda:0", "cuda:1,cuda:1", "gpu"])
def test_devices_that_there_are_not_are_refused(device: str) -> None:
    with pytest.raises(UserError) as refused:
        settings(device)
    assert refused.value.code == "device"


def test_a_worker_of_several_gpus_does_not_start_where_its_jobs_get_no_network_of_their_own() -> None:
    # Below our own filter, as in containers that forbid namespaces.
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from test_worker_command import settings
from aslconvert.cli.working import require_own_network
from aslconvert.workers.errors import InfrastructureError
from aslconvert.workers.sandbox.kernel import PR_SET_NO_NEW_PRIVS, prctl
from aslconvert.workers.sandbox.seccomp import refuse_calls
require_own_network(settings("cuda:0")[2])
prctl(PR_SET_NO_NEW_PRIVS, 1)
refuse_calls()
require_own_network(settings("cuda:0")[2])
try:
    require_own_network(settings("cuda:0,cuda:1")[2])
except InfrastructureError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["no_loopback"], done.stderr


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
