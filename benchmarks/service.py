"""What watching costs: many clients poll one job and many streams follow it while it runs on the same machine.

    python benchmarks/service.py [--pollers 200] [--streams 50] [--seconds 10 | --conversion STEPS]

One process serves and works (`aslconvert serve`'s default); the job is a sandbox process that hashes for so many
seconds alone, and then again while it is watched. Each poller asks once a second with If-None-Match, as the client
does. Told: latency of status answers, errors, whether each stream had every event once, how much longer the job
took, and what the service took of the processors for all of it. The clients run on the same cores and take their share
of them too, so that a service whose clients are elsewhere slows its jobs less than this. ``--conversion`` converts a
small network instead of hashing. The whole takes less than a minute on two idle cores, but for conversions. Result:
out/bench/service.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aslconvert.service.keys.service import create_key
from aslconvert.service.settings import Settings
from aslconvert.service.uploads.shelf import MODELS

OUT = Path("out/bench/service.json")
PATIENCE = 45.0
"""Seconds beyond twice those of the job alone after which everything is given up."""


@dataclass
class Seen:
    """What the clients saw."""

    milliseconds: list[float] = field(default_factory=list)
    unchanged: int = 0
    errors: list[str] = field(default_factory=list)
    streams: list[list[int]] = field(default_factory=list)
    ended: int = 0


class Service:
    """The service below a folder, and one model in it."""

    def __init__(self, folder: Path, *, engine: str) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "ASLCONVERT_ENGINE": engine,
            "ASLCONVERT_REQUESTS_PER_MINUTE": "1000000",
        }
        command = [sys.executable, "-m", "aslconvert.service", "--port", str(self.port), "--folder", str(folder)]
        settings = Settings(folder=folder)
        self.key = create_key(settings, name="benchmark")
        with settings.places.opened() as (store, blobs):
            blob = blobs.put([b"a model"])
            told: dict[str, Any] = {"tenant": "default", "name": "model", "kind": "pt2", "facts": {}}
            self.model = store.database.write(lambda at: MODELS.add(at, size=blob.size, sha256=blob.hash, **told)).id
        self.process = subprocess.Popen([*command, "--embedded"], env=environment)
        while not self._answers():
            if self.process.poll() is not None:
                raise SystemExit("the service does not start")
            time.sleep(0.1)

    def processor_seconds(self) -> float:
        """What its process has taken so far; its jobs run in others."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def call(self, path: str, body: object = None) -> dict[str, Any]:
        """The answer's JSON."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def submit(self, work: int) -> str:
        """The id of a job of so many megabytes or steps."""
        options = {"heal_steps": work}
        return str(self.call("/v1/jobs", {"kind": "inspect", "model": self.model, "options": options})["id"])

    def ended(self, job: str) -> float:
        """The seconds that the job's work took, once it has ended."""
        while (found := self.call(f"/v1/jobs/{job}"))["finished"] is None:
            time.sleep(0.2)
        if found["state"] != "succeeded":
            raise SystemExit(f"the job {found['state']}: {found['error']}")
        return float(found["forecast"]["seconds"])

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


async def poll(service: Service, job: str, seen: Seen, over: asyncio.Event) -> None:
    """Ask once a second over one connection, which a client that is lighter than the server must write itself."""
    await asyncio.sleep(random.random())
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    tag = ""
    while not over.is_set():
        begun = time.monotonic()
        condition = f"If-None-Match: {tag}\r\n" if tag else ""
        writer.write(
            f"GET /v1/jobs/{job} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.key}\r\n{condition}\r\n".encode()
        )
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next((line for line in head.split("\r\n") if line.startswith("content-length:")), "x: 0")
            await reader.readexactly(int(length.partition(":")[2]))
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.errors.append(type(error).__name__)
            return
        seen.milliseconds.append(1000 * (time.monotonic() - begun))
        status = head.split(" ")[1]
        seen.unchanged += status == "304"
        if status not in {"200", "304"}:
            seen.errors.append(status)
        found = next((line for line in head.split("\r\n") if line.startswith("etag:")), None)
        tag = found.partition(": ")[2].replace("w/", "W/") if found else ""
        await asyncio.sleep(max(0.0, 1 - (time.monotonic() - begun)))
    writer.close()


async def follow(service: Service, job: str, seen: Seen) -> None:
    """Read a stream to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(
        f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.key}\r\n"
        "Accept: text/event-stream\r\n\r\n".encode()
    )
    numbers: list[int] = []
    while line := await reader.readline():
        if line.startswith(b"id: "):
            numbers.append(int(line[4:]))
        if line.startswith(b"event: end"):
            seen.ended += 1
            break
    seen.streams.append(numbers)
    writer.close()


async def watched(service: Service, job: str, *, pollers: int, streams: int) -> Seen:
    """Everybody watches until the job has ended."""
    seen, over = Seen(), asyncio.Event()
    asking = [asyncio.create_task(poll(service, job, seen, over)) for _ in range(pollers)]
    await asyncio.gather(*(follow(service, job, seen) for _ in range(streams)))
    if not streams:
        await asyncio.to_thread(service.ended, job)
    over.set()
    await asyncio.gather(*asking)
    return seen


def main() -> None:
    """Run it, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pollers", type=int, default=200)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the job's work, alone")
    parser.add_argument("--conversion", type=int, metavar="STEPS", help="of healing, of a real conversion instead")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), engine="service_job:run" if asked.conversion is None else "service_job:convert")
        try:
            work = asked.conversion
            if work is None:
                pace = 200 / service.ended(service.submit(200))
                work = max(200, round(pace * asked.seconds))
            alone = service.ended(service.submit(work))
            before = service.processor_seconds()
            job = service.submit(work)
            watching = watched(service, job, pollers=asked.pollers, streams=asked.streams)
            seen = asyncio.run(asyncio.wait_for(watching, PATIENCE + 2 * alone))
            spent = service.processor_seconds() - before
            loaded = service.ended(job)
        finally:
            service.process.terminate()
            service.process.wait(30)
    record = summary(asked, seen, alone=alone, loaded=loaded, spent=spent)
    print(json.dumps(record, indent=2))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(record, indent=2) + "\n")
    if record["errors"] or record["streams"]["complete"] != asked.streams:
        raise SystemExit("clients saw errors or lost events")


def summary(asked: argparse.Namespace, seen: Seen, *, alone: float, loaded: float, spent: float) -> dict[str, Any]:
    """The record: milliseconds, seconds, counts."""
    cuts = statistics.quantiles(seen.milliseconds, n=100) if len(seen.milliseconds) > 1 else [0.0] * 99
    longest = max((len(numbers) for numbers in seen.streams), default=0)
    complete = sum(numbers == list(range(1, longest + 1)) for numbers in seen.streams)
    return {
        "machine": {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "processor": platform.machine()},
        "pollers": asked.pollers,
        "status": {
            "requests": len(seen.milliseconds),
            "unchanged": seen.unchanged,
            "p50_ms": round(cuts[49], 2),
            "p95_ms": round(cuts[94], 2),
            "p99_ms": round(cuts[98], 2),
            "max_ms": round(max(seen.milliseconds, default=0.0), 2),
        },
        "errors": len(seen.errors),
        "error_kinds": sorted(set(seen.errors)),
        "streams": {"asked": asked.streams, "ended": seen.ended, "complete": complete, "events_each": longest},
        "job": {"alone_s": round(alone, 2), "watched_s": round(loaded, 2), "slowdown": round(loaded / alone, 3)},
        "service": {
            "processor_s": round(spent, 2),
            "ms_a_status": round(1000 * spent / max(1, len(seen.milliseconds)), 2),
        },
    }


if __name__ == "__main__":
    main()
