"""The REST service of a deployment, started as its users start it, killed, and started again at the same port."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from aslconvert.service.client import Client, Retry
from aslconvert.service.uploads.shelf import DATASETS, MODELS
from aslconvert.workers.database import Database, Transaction
from aslconvert.workers.storage import Blobs

SECONDS = 120.0
"""For which it may take to answer on a machine with other work."""


@dataclass
class Api:
    """``aslconvert serve`` with workers elsewhere; ``arguments`` name database, storage and Redis.

    ``model`` and ``dataset`` are the ids of what `add_inputs` made.
    """

    place: Path
    port: int
    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    model: str = ""
    dataset: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers. Raises RuntimeError with the end of its log."""
        log = self.place / "api.log"
        command = [
            sys.executable, "-m", "aslconvert.cli.main", "serve", "--port", str(self.port), "--folder", str(self.place),
            "--no-embedded", *self.arguments,
        ]  # fmt: skip
        with log.open("ab") as file:
            environment = {**os.environ, **self.environment}
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        until = time.monotonic() + SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"The API does not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def client(self, *, patience: float = SECONDS) -> Client:
        """A client with the key that the first start left; it comes back soon to an API that is away."""
        retry = Retry(first=0.05, most=0.5, patience=patience)
        return Client(self.url, key_file=self.place / "key", retry=retry, sent=self.place / "sent")

    def add_inputs(self, database: Database, blobs: Blobs) -> None:
        """A model and data for all jobs, as if they had been uploaded and vetted, which takes longer than a run."""
        model, data = blobs.put([b"a model"]), blobs.put([b"its data"])

        def work(at: Transaction) -> tuple[str, str]:
            told: dict[str, Any] = {"tenant": "default", "name": "soak", "facts": {}}
            one = MODELS.add(at, kind="pt2", size=model.size, sha256=model.hash, **told)
            return one.id, DATASETS.add(at, kind="images", size=data.size, sha256=data.hash, **told).id

        self.model, self.dataset = database.write(work)

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/v1/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
