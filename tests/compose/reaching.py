"""Tells what a process of a worker's container reaches there, and what one of its jobs does; it is run inside.

As a program it starts a sandbox as the worker does, which imports it again as the engine.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aslconvert.workers.sandbox.launch import Sandbox, Spec

NAMES = ("database", "redis", "name", "secret", "blobs", "environment")


def outcomes(**_: Any) -> dict[str, bool]:
    """Which of ``NAMES`` this process could reach."""
    tried: dict[str, Callable[[], object]] = {
        "database": lambda: socket.create_connection(("postgres", 5432), timeout=5).close(),
        "redis": lambda: socket.create_connection(("redis", 6379), timeout=5).close(),
        "name": lambda: socket.getaddrinfo("postgres", 5432),
        "secret": Path("/run/secrets/database_url").read_bytes,
        "blobs": lambda: list(Path("/blobs").iterdir()),
        "environment": _password_of_another_process,
    }
    assert tuple(tried) == NAMES
    found = {}
    for name, attempt in tried.items():
        try:
            attempt()
            found[name] = True
        except OSError:
            found[name] = False
    return found


def _password_of_another_process() -> None:
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if b"ASLCONVERT_DATABASE_URL=" in place.read_bytes():
                return
        except OSError:
            continue
    raise PermissionError


def main() -> None:
    """Print both, and what the kernel granted, as one JSON document."""
    with tempfile.TemporaryDirectory(prefix="aslconvert-sandbox-") as folder:
        spec = Spec(
            kind="check", payload={}, folder=Path(folder) / "job", engine="reaching:outcomes",
            environment={"PYTHONPATH": str(Path(__file__).parent)},
        )  # fmt: skip
        with Sandbox(spec) as sandbox:
            confined = next(event.data for event in sandbox.events(seconds=60) if event.kind == "confined")
            sandbox.wait(seconds=60)
        job = json.loads((Path(folder) / "job" / "result.json").read_text())
    json.dump({"worker": outcomes(), "job": job, "confined": dict(confined)}, sys.stdout)


if __name__ == "__main__":
    main()
