"""A real service in a process of its own, which can be killed and started again at the same port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from aslconvert.service.keys.service import create
from aslconvert.service.security.callers import Scope
from aslconvert.service.security.secrets import Secrets
from aslconvert.service.settings import Settings, master_secret
from aslconvert.service.uploads.shelf import DATASETS, MODELS
from aslconvert.workers.database import Database, Transaction
from aslconvert.workers.storage import Blobs, open_blobs

ALL = (Scope.READ, Scope.WRITE, Scope.ADMIN, Scope.OPERATOR)
HERE = Path(__file__).parent


class Live:
    """``python -m aslconvert.service`` below ``folder``; ``settings`` go to its environment by their names."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.settings = {name: str(value) for name, value in settings.items()}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "service.log"

    def start(self, *, seconds: float = 60) -> Live:
        """Start it, and wait until it answers."""
        environment = {
            **os.environ,
            **{f"ASLCONVERT_{name.upper()}": value for name, value in self.settings.items()},
            # Where engines of tests are found.
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "workers")]),
        }
        command = [sys.executable, "-m", "aslconvert.service", "--port", str(self.port), "--folder", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        until = time.monotonic() + seconds
        while True:
            try:
                if httpx.get(f"{self.url}/v1/health").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"The service does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """As the power cut does."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """As an orchestrator does; the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def close(self) -> None:
        """Kill it if it runs, and let go of the database."""
        self.kill()
        if "_stores" in self.__dict__:
            self._stores[2].close()

    @cached_property
    def _stores(self) -> tuple[Settings, Secrets, Database, Blobs]:
        """What the service has open, opened here too; its tables are there since it started."""
        settings = Settings(folder=self.folder, **self.settings)  # type: ignore[arg-type]  # read as the environment is
        places = settings.places
        database = Database(places.database_url)
        blobs = open_blobs(places.storage or str(self.folder / "blobs"), staging_folder=self.folder / "staging")
        return settings, Secrets(master_secret(settings)), database, Blobs(database, blobs)

    def key(self, *scopes: Scope, tenant: str = "default", expires_in: timedelta | None = None) -> str:
        """A new key with these scopes, or all."""
        _, secrets, database, _ = self._stores
        wanted = scopes or ALL
        return database.write(
            lambda at: create(at, secrets, name="test", tenant=tenant, scopes=wanted, expires_in=expires_in).text
        )

    def things(self, tenant: str = "default", *, content: bytes = b"a model") -> tuple[str, str]:
        """The ids of a model and a data set that are simply there, as if they had been uploaded and vetted."""
        _, _, database, blobs = self._stores
        model, data = blobs.put([content]), blobs.put([content, b" and data"])

        def work(at: Transaction) -> tuple[str, str]:
            told: dict[str, Any] = {"tenant": tenant, "name": "test", "facts": {}}
            one = MODELS.add(at, kind="pt2", size=model.size, sha256=model.hash, **told)
            return one.id, DATASETS.add(at, kind="images", size=data.size, sha256=data.hash, **told).id

        return database.write(work)

    def client(self, *scopes: Scope, tenant: str = "default", key: str | None = None) -> httpx.Client:
        """A client with a new key."""
        bearer = key or self.key(*scopes, tenant=tenant)
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {bearer}"}, timeout=60)


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an answer that must be a problem document."""
    told = answer.json()
    if answer.headers["content-type"] != "application/problem+json" or told["status"] != answer.status_code:
        raise AssertionError(f"no problem: {answer.headers} {told}")
    return answer.status_code, told["code"]


def codes(answers: Sequence[httpx.Response]) -> list[int]:
    return [answer.status_code for answer in answers]


def ended(client: httpx.Client, job_id: str, *, seconds: float = 90) -> dict[str, Any]:
    """The job once it has ended; polled as clients do."""
    until, tag = time.monotonic() + seconds, ""
    while True:
        answer = client.get(f"/v1/jobs/{job_id}", headers={"If-None-Match": tag} if tag else {})
        tag = answer.headers["etag"]
        if answer.status_code == 200:
            job: dict[str, Any] = answer.json()
            if job["finished"] is not None:
                return job
        if time.monotonic() > until:
            raise AssertionError(f"still {answer.text}")
        time.sleep(0.05)
