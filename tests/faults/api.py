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

import numpy as np
from onnx import TensorProto, helper

from aslconvert.service.client import Client, Retry

SECONDS = 120.0
"""For which it may take to answer on a machine with other work."""


@dataclass
class Api:
    """``aslconvert serve`` with workers elsewhere; ``arguments`` name database, storage and Redis.

    ``model`` and ``dataset`` are the ids of what `upload` sent.
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

    def upload(self) -> None:
        """Send the model and the data of all jobs."""
        model, data = self.place / "model.onnx", self.place / "data.npz"
        model.write_bytes(_network())
        np.savez(data, x=np.zeros((4, 3, 8, 8), np.float32))
        with self.client() as client:
            self.model, self.dataset = client.upload_model(model).id, client.upload_dataset(data).id

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/v1/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def _network() -> bytes:
    """One convolution: what is asked of it is that the service takes it."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 3, 1, 1], [0.5] * 6)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2, 8, 8])]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", inputs, outputs, [weight])
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(whole.SerializeToString())
