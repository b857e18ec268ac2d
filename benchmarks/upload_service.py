"""A service in a process of its own, to upload to: for `benchmarks/uploads.py`."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from aslconvert.service.keys.service import create_key
from aslconvert.service.settings import Settings

BLOCK = 1 << 20
BODY = "application/offset+octet-stream"


class Service:
    """The service in a process of its own, with the peak of its memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.key = create_key(Settings(folder=folder), name="benchmark")
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": f"Bearer {self.key}"}, timeout=600
        )
        self.start()

    def start(self) -> None:
        """Start it, and upload something small, so that all its code is loaded."""
        command = [sys.executable, "-m", "aslconvert.service", "--port", str(self.port), "--folder", str(self.folder)]
        log = (self.folder / "service.log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while True:
            try:
                self.client.get("/v1/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        small = self.folder / "small"
        small.write_bytes(os.urandom(3 * BLOCK))
        place = self.announce(small)
        self.send(small, place, 0, small.stat().st_size)
        while self.client.get(place).json()["state"] in ("receiving", "vetting"):
            time.sleep(0.1)
        self.before = self._memory("VmRSS")

    def _memory(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]  # Linux has both

    def growth(self) -> int:
        """Bytes of memory at most, above those at the start."""
        return max(0, self._memory("VmHWM") - self.before)

    def kill(self) -> None:
        """As a power cut does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """As an operator does."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def announce(self, path: Path) -> str:
        """A new upload of a file."""
        told = {"kind": "dataset", "filename": path.name}
        about = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in told.items())
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(path.stat().st_size), "Upload-Metadata": about}
        made = self.client.post("/v1/uploads", headers=headers)
        made.raise_for_status()
        return made.headers["location"]

    def offset(self, place: str) -> int:
        """Bytes received."""
        found = self.client.head(place, headers={"Tus-Resumable": "1.0.0"})
        found.raise_for_status()
        return int(found.headers["upload-offset"])

    def send(self, path: Path, place: str, start: int, end: int, *, promise: str | None = None) -> None:
        """One PATCH, by `sendfile`: the client costs as little as that of the copy."""
        head = (
            f"PATCH {place} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.key}\r\nTus-Resumable: 1.0.0\r\n"
            f"Upload-Offset: {start}\r\nContent-Type: {BODY}\r\nContent-Length: {end - start}\r\nConnection: close\r\n"
        )
        if promise is not None:
            head += f"Upload-Checksum: sha256 {promise}\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as line, path.open("rb") as file:
            line.sendall(f"{head}\r\n".encode())
            line.sendfile(file, start, end - start)
            answer = line.recv(4096)
        if not answer.startswith(b"HTTP/1.1 204"):
            raise RuntimeError(answer.decode(errors="replace"))

    def became(self, place: str) -> str:
        """Where the data set is that an upload became, once it was vetted."""
        while (told := self.client.get(place).json())["state"] in ("receiving", "vetting"):
            time.sleep(0.1)
        if told["state"] != "done":
            raise RuntimeError(str(told))
        return str(told["resource"]["url"])

    def sha256(self, place: str) -> str:
        """Of a data set."""
        return str(self.client.get(place).json()["sha256"])
