"""A real network converted on a real service by the commands alone: one machine, and Redis, Celery and PostgreSQL."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from client_engine import FILES
from cluster import Redis, redis_server
from cutting import cutting
from postgres import cluster, programs
from scripted import free_port
from torch import Generator as Random
from torch import nn, randn

pytestmark = pytest.mark.timeout(1800)

SERVICE = Path(__file__).resolve().parents[1] / "service"
NET = """
import torch
from torch import nn

def dense():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(48, 3, 1)).eval(), (torch.zeros(2, 3, 32, 32),)

def pointwise():
    return nn.Sequential(nn.Conv2d(3, 8, 1)), (torch.zeros(1, 3, 16, 16),)
"""
OPTIONS = ["--min-speedup", "1.01", "--heal-steps", "5", "--threads", "1", "--artifacts", "portable,onnx,weights"]


def run(*arguments: str, code: int = 0) -> Any:
    """The JSON document of a command in a process of its own that leaves with ``code``."""
    command = [sys.executable, "-m", "aslconvert.cli.main", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == code, done.stderr[-3000:] + done.stdout
    return json.loads(done.stdout)


@contextlib.contextmanager
def process(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "aslconvert.cli.main", *arguments]
    with log.open("ab") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def answering(url: str) -> None:
    until = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/v1/health").status_code == 200:
                return
        if time.monotonic() > until:
            raise TimeoutError(url)
        time.sleep(0.05)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a network and data, which also holds the deployment."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        folder = Path(name)
        (folder / "net.py").write_text(NET)
        noise = randn(60, 3, 32, 32, generator=Random().manual_seed(1))
        np.savez(folder / "data.npz", input=nn.functional.avg_pool2d(noise, 3, stride=1, padding=1).numpy())
        monkeypatch.setenv("ASLCONVERT_FOLDER", str(folder / "deployed"))
        monkeypatch.delenv("ASLCONVERT_KEY", raising=False)
        yield folder


def verified(out: Path) -> None:
    """The folder holds what a run here leaves, each file proved."""
    proved = run("verify", str(out))["artifacts"]
    assert {one["kind"] for one in proved} >= {"portable", "onnx", "weights"}
    assert all(one["reloaded"] for one in proved)
    assert (out / "report.html").read_text().startswith("<!")


@pytest.mark.deep
def test_a_network_is_converted_over_a_line_that_breaks_and_a_service_that_is_restarted(place: Path) -> None:
    port, out = free_port(), place / "out"
    serve = ("serve", "--port", str(port), "--folder", str(place / "deployed"))
    model, data = f"{place / 'net.py'}:dense", str(place / "data.npz")
    with contextlib.ExitStack() as stack:
        first = serving = stack.enter_context(process(*serve, log=place / "log"))
        answering(f"http://127.0.0.1:{port}")
        proxy = stack.enter_context(cutting(port))
        command = [sys.executable, "-m", "aslconvert.cli.main", "convert", model, "--data", data, "--out", str(out)]
        with subprocess.Popen(
            [*command, "--server", proxy.url, *OPTIONS, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as converting:
            assert converting.stderr is not None
            assert converting.stdout is not None
            told = []
            for line in converting.stderr:
                told.append(line.strip())
                if told[-1] == "time the original":
                    proxy.cut()
                if told[-1] == "open model and data" and serving is first:
                    serving.send_signal(signal.SIGTERM)
                    assert serving.wait(120) == 0
                    serving = stack.enter_context(process(*serve, log=place / "log"))
            report = json.loads(converting.stdout.read())
        assert converting.returncode == 0, (told, report)
        assert proxy.cuts >= 1
        assert report["chosen"] in {variant["id"] for variant in report["variants"]}
        assert json.loads((out / "report.json").read_text()) == report
        verified(out)
        # As a run here: no state is left, and what cannot be converted is told by the same code.
        assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
        refused = run(
            "convert", f"{place / 'net.py'}:pointwise", "--data", data, "--out", str(place / "none"), "--server",
            proxy.url, code=4,
        )  # fmt: skip
        assert refused["error"]["code"] == "nothing_to_convert"
        assert not (place / "none").exists()


@pytest.mark.deep
def test_an_interrupted_conversion_is_gone_on_with(place: Path) -> None:
    port, out = free_port(), place / "out"
    url = f"http://127.0.0.1:{port}"
    arguments = ["convert", f"{place / 'net.py'}:dense", "--data", str(place / "data.npz"), "--out", str(out)]
    arguments += ["--server", url, *OPTIONS]
    with process("serve", "--port", str(port), "--folder", str(place / "deployed"), log=place / "log"):
        answering(url)
        command = [sys.executable, "-m", "aslconvert.cli.main", *arguments]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as converting:
            assert converting.stderr is not None
            for line in converting.stderr:
                if line.startswith("open model"):
                    converting.send_signal(signal.SIGINT)
                    break
            rest = converting.stderr.read()
        assert converting.returncode == 130
        assert "--resume" in rest
        run(*arguments, "--resume")
        verified(out)
        assert len(run("status", "--server", url)["jobs"]) == 1


@pytest.mark.deep
@pytest.mark.parametrize("engine", ["client_engine:run", None])
def test_a_celery_worker_over_postgresql_does_what_is_submitted(
    engine: str | None, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries = programs()
    if binaries is None or redis_server() is None:
        pytest.skip("NO POSTGRESQL OR NO REDIS HERE: the distributed deployment is not tested")
    port, out = free_port(), place / "out"
    url = f"http://127.0.0.1:{port}"
    redis = Redis(place / "redis", free_port())
    more = () if engine is None else ("--engine", engine)
    options = OPTIONS if engine is None else ["--seed", "60"]
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(cluster(binaries))
        redis.start()
        stack.callback(redis.kill)
        monkeypatch.setenv("ASLCONVERT_DATABASE_URL", database.url())
        monkeypatch.setenv("ASLCONVERT_REDIS", redis.url)
        monkeypatch.setenv("ASLCONVERT_STORAGE", str(place / "blobs"))
        monkeypatch.setenv("ASLCONVERT_SERVER", url)
        # Where the engine of tests is found.
        monkeypatch.setenv("PYTHONPATH", str(SERVICE))
        run("keys", "bootstrap", "-o", str(place / "key"))
        api = ("serve", "--port", str(port))
        serving = stack.enter_context(process(*api, log=place / "log"))
        stack.enter_context(process("worker", "--folder", str(place / "works"), *more, log=place / "worker.log"))
        answering(url)
        assert not (place / "deployed" / "key").exists()  # there was a key already
        key = ("--key-file", str(place / "key"))
        model, data = f"{place / 'net.py'}:dense", str(place / "data.npz")
        job = run("submit", model, "--data", data, *options, *key)["id"]
        command = [sys.executable, "-m", "aslconvert.cli.main", "wait", job, *key, "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            for line in waiting.stderr:
                if line.strip() in ("time the original", "number 2"):
                    # The job goes on in its worker while nobody serves.
                    serving.kill()
                    serving.wait()
                    stack.enter_context(process(*api, log=place / "log"))
        assert waiting.returncode == 0
        assert run("status", job, *key)["attempt"] == 1
        run("download", job, "--out", str(out), *key)
        if engine is None:
            verified(out)
        else:
            assert {path.name: path.read_bytes() for path in out.iterdir()} == FILES
