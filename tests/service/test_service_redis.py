"""The service tells workers of jobs over Redis, and loses none when Redis is away or it dies itself in between."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live import HERE, Live, ended
from test_jobs import asked

sys.path.insert(0, str(HERE.parent / "faults"))

from cluster import Redis


@pytest.fixture
def broker(memory: Path, unused_port: int) -> Iterator[Redis]:
    if shutil.which("redis-server") is None:
        pytest.skip("NO REDIS HERE: dispatch over it is not tested; apt-get install redis-server")
    server = Redis(memory / f"redis-{unused_port}", unused_port)
    yield server
    if server.process is not None:
        server.process.kill()
        server.process.wait()


def test_jobs_come_to_workers_over_redis(fresh: Callable[..., Live], broker: Redis) -> None:
    live = fresh(redis=broker.url)
    with live.client() as client:
        # Taken while there is no broker, and by a process that is killed before there is one.
        first = client.post("/v1/jobs", json=asked(live)).json()["id"]
        live.kill()
        broker.start()
        live.start()
        second = client.post("/v1/jobs", json=asked(live, options={"metric": "fail"})).json()["id"]
        command = [
            sys.executable, "-m", "aslconvert.cli.main", "worker", "--folder", str(live.folder),
            "--redis", broker.url, "--engine", "service_engine:run", "--name", "far",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as worker:
            try:
                assert ended(client, first, seconds=240)["state"] == "succeeded"
                assert ended(client, second, seconds=240)["state"] == "failed"
            finally:
                worker.send_signal(signal.SIGTERM)
                worker.wait(60)
