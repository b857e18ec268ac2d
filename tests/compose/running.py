"""A deployment that runs: real containers of images that were built, and what a client does with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deployment import ROOT, Compose, has, laid

from aslconvert.service.client import Client
from aslconvert.service.client.records import Job

PORT = 18443
IMAGES = ("aslconvert-api", "aslconvert-worker-cpu")
AUTHORITY = "/data/caddy/pki/authorities/local/root.crt"


class Deployment:
    """What runs, and how it is reached from outside."""

    def __init__(self, compose: Compose, files: tuple[str, ...]) -> None:
        self.compose, self.files = compose, files
        self.server = f"https://{socket.gethostname()}:{PORT}"
        self.key = ""

    def run(self, *words: str, check: bool = True) -> str:
        return self.compose.run(*self.files, *words, check=check).stdout

    def choose(self, version: str) -> None:
        """Which tag of the images the next `up` takes."""
        path = self.compose.folder / ".env"
        lines = [line for line in path.read_text().splitlines() if not line.startswith("ASLCONVERT_VERSION=")]
        path.write_text("\n".join([*lines, f"ASLCONVERT_VERSION={version}", ""]))

    def up(self) -> None:
        self.run("up", "-d", "--no-build", "--wait", "--wait-timeout", "300")

    def admin(self, *words: str) -> Any:
        told = self.run("exec", "-T", "api", "aslconvert-entrypoint", "aslconvert", "admin", *words, "--json")
        return json.loads(told)

    def container(self, service: str) -> dict[str, Any]:
        name = self.run("ps", "-q", "--all", service).split()[0]
        found: list[dict[str, Any]] = json.loads(docker("inspect", name))
        return found[0]

    def kill(self, service: str) -> None:
        """`kill -9` of the container's first process; its restart policy brings it back."""
        before = self.container(service)["State"]
        os.kill(before["Pid"], 9)
        wait_for(lambda: self.container(service)["State"]["StartedAt"] != before["StartedAt"])

    def health(self, service: str) -> str:
        """`healthy`, or what it is instead."""
        return str(self.container(service)["State"]["Health"]["Status"])

    def trust(self) -> None:
        """Take the authority that the proxy made for itself."""
        wait_for(lambda: bool(self.run("exec", "-T", "proxy", "cat", AUTHORITY, check=False)))
        path = self.compose.folder / "root.crt"
        path.write_text(self.run("exec", "-T", "proxy", "cat", AUTHORITY))

    def client(self) -> Client:
        return Client(self.server, self.key)


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def wait_for(condition: Callable[[], bool], *, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.25)


@contextlib.contextmanager
def running(folder: Path, *, version: str = "latest", sources: Path = ROOT) -> Iterator[Deployment]:
    """A deployment of the images with that tag, by the files in ``sources``; gone afterwards, but for its ``logs``."""
    if not has(["docker", "info"]) or os.getuid() != 0:
        pytest.skip("NO CONTAINER ENGINE HERE: nothing about running containers is tested; see `make compose-test`")
    if not has(["docker", "image", "inspect", *(f"{image}:{version}" for image in IMAGES)]):
        pytest.skip(f"NO IMAGES OF {version.upper()} HERE: `make compose-test` builds them")
    compose = laid(folder, sources=sources)
    compose.init(socket.gethostname())
    with (folder / ".env").open("a") as file:
        file.write(
            f"COMPOSE_PROJECT_NAME=asltest\nASLCONVERT_HTTPS_PORT={PORT}\nASLCONVERT_HTTP_PORT=18080\n"
            f"ASLCONVERT_PUBLIC_URL=https://{socket.gethostname()}:{PORT}\nASLCONVERT_TLS=tls internal\n"
            "WORKER_CPUS=1\nAPI_CPUS=1\n"
        )
    standing_in = has(["docker", "image", "inspect", "aslconvert-dev/caddy"])
    files = ("--env-file", ".env", "--env-file", "docker/dev/env") if standing_in else ()
    one = Deployment(compose, files)
    one.choose(version)
    try:
        one.up()
        one.trust()
        one.key = one.admin("create-key", "--name", "test")["key"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(folder / "root.crt"))
            yield one
    finally:
        (folder / "logs").write_text(one.run("logs", "--no-color", check=False))
        one.run("down", "--volumes", "--timeout", "20", check=False)


def submit(client: Client, inputs: tuple[Path, Path], *, budget: float, **options: object) -> Job:
    model, data = client.upload_model(inputs[0]), client.upload_dataset(inputs[1])
    # One variant is enough: what is tested is what becomes of a job.
    least = {"budget_seconds": budget, "min_speedup": 1.01, "threads": 1, "artifacts": ["portable"]}
    return client.submit(model=model.id, dataset=data.id, options={**least, **options})


def fetched(client: Client, job: str, folder: Path) -> dict[str, str]:
    """Every artifact, which the client has compared with its hash, and the report."""
    found = {}
    for artifact in client.artifacts(job):
        path = client.download(artifact, folder / artifact.name)
        found[artifact.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        assert found[artifact.name] == artifact.sha256
    report = json.dumps(client.report(job), sort_keys=True)
    return {**found, "report": hashlib.sha256(report.encode()).hexdigest()}
