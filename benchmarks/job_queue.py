"""Claims of tiny jobs: rate and latency by length of queue, database and number of workers; a table and a JSON file.

    .venv/bin/python benchmarks/job_queue.py --lengths 100,1000,10000 --workers 1,8

A claim is `JobStore.claim`: one transaction that is on the disk when it returns (SQLite in WAL mode with synchronous
FULL, PostgreSQL with fsync on), so that the disk's sync is in every number, and printed beside. Workers are processes
that do nothing but claim; a queue is refilled before each measurement and never runs empty within one. Limits:
everything is on one machine, where workers compete with the server and with each other for its cores; eight that do
nothing but claim are far more than the same eight that convert.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert

from aslconvert.workers.database import Database, Transaction, migrate
from aslconvert.workers.jobs import JobStore, Kind, Queue, State
from aslconvert.workers.jobs.ids import new_id
from aslconvert.workers.jobs.tables import events, jobs, outbox

CLAIMS = 400
"""At most, of each measurement; a shorter queue is claimed to half."""


@dataclass(frozen=True)
class Measurement:
    """One line of the table; latencies in milliseconds."""

    database: str
    workers: int
    length: int
    claims: int
    claims_per_second: float
    p50_ms: float
    p99_ms: float
    longest_ms: float


def fill(database: Database, length: int) -> None:
    """Empty the store and queue so many jobs."""

    def work(at: Transaction) -> None:
        at.connection.execute(delete(jobs))
        row = {
            "tenant": "t",
            "kind": Kind.INSPECT,
            "queue": Queue.CPU,
            "priority": 0,
            "state": State.QUEUED,
            "payload": {},
            "attempts_made": 0,
            "max_attempts": 3,
            "cancel_requested": False,
            "created": datetime.now(UTC),
            "version": 1,
            "event_count": 1,
            "lease_token": 0,
        }
        ids = [new_id() for _ in range(length)]
        at.connection.execute(insert(jobs), [{"id": job_id} | row for job_id in ids])
        said = {"number": 1, "type": "queued", "data": {}, "at": datetime.now(UTC)}
        at.connection.execute(insert(events), [{"job_id": job_id} | said for job_id in ids])
        at.connection.execute(insert(outbox), [{"job_id": job_id, "queue": Queue.CPU} for job_id in ids])

    database.write(work)
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def _claim(url: str, count: int, ready: Any, results: Any) -> None:
    store = JobStore(Database(url, patience=120))
    store.figures()  # connects
    ready.wait()
    taken, latencies = [], []
    begun = time.perf_counter()
    for _ in range(count):
        start = time.perf_counter()
        claim = store.claim([Queue.CPU], worker=f"w{os.getpid()}")
        latencies.append(time.perf_counter() - start)
        if claim is None:
            raise RuntimeError("the queue ran empty")
        taken.append(claim.job_id)
    results.put((begun, time.perf_counter(), latencies, taken))


def measure(name: str, url: str, *, workers: int, length: int) -> Measurement:
    """Claim from a queue of this length with so many processes."""
    database = Database(url, patience=120)
    fill(database, length)
    database.close()
    count = max(1, min(CLAIMS, length // 2) // workers)
    context = get_context("fork")
    ready, results = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=_claim, args=(url, count, ready, results)) for _ in range(workers)]
    for process in processes:
        process.start()
    told = [results.get() for _ in processes]
    for process in processes:
        process.join()
    latencies = sorted(1e3 * latency for _, _, list_, _ in told for latency in list_)
    taken = [job_id for *_, list_ in told for job_id in list_]
    if len(set(taken)) != len(taken):
        raise RuntimeError("a job was claimed twice")
    seconds = max(end for _, end, *_ in told) - min(begun for begun, *_ in told)
    return Measurement(
        name,
        workers,
        length,
        len(taken),
        len(taken) / seconds,
        statistics.median(latencies),
        latencies[math.ceil(0.99 * len(latencies)) - 1],
        latencies[-1],
    )


def sync_ms(folder: Path) -> float:
    """The median time of a synced write of one page, in milliseconds."""
    times = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(50):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


@contextmanager
def own_server() -> Iterator[str | None]:
    """The URL of a throwaway server, where its programs are installed."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "workers"))
    from postgres import cluster, programs

    binaries = programs()
    if binaries is None:
        print("No PostgreSQL here: only SQLite is measured.")
        yield None
        return
    with cluster(binaries, durable=True) as server:
        yield server.url()


def table(measurements: list[Measurement]) -> str:
    """The measurements as a Markdown table."""
    lines = [
        "| database | workers | queued | claims/s | p50 ms | p99 ms | longest ms |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {m.database} | {m.workers} | {m.length} | {m.claims_per_second:.0f} | {m.p50_ms:.1f} | {m.p99_ms:.1f} "
        f"| {m.longest_ms:.1f} |"
        for m in measurements
    ]
    return "\n".join(lines)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=_numbers, default=[100, 1000, 10_000])
    parser.add_argument("--workers", type=_numbers, default=[1, 8])
    parser.add_argument("--databases", type=lambda text: text.split(","), default=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path, help="where SQLite's file is; the disk is what is measured")
    parser.add_argument("--postgres", help="a database to use and empty, instead of a throwaway server's")
    parser.add_argument("--out", type=Path, default=Path("out/bench/job_queue.json"))
    options = parser.parse_args(arguments)
    measurements: list[Measurement] = []
    needs_server = "postgresql" in options.databases and options.postgres is None
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        own_server() if needs_server else nullcontext() as own,
    ):
        sync = sync_ms(Path(folder))
        places = {"sqlite": f"sqlite:///{folder}/jobs.db", "postgresql": options.postgres or own}
        for name, url in places.items():
            if url is None or name not in options.databases:
                continue
            migrate(url)
            for workers in options.workers:
                for length in options.lengths:
                    measurements.append(measure(name, url, workers=workers, length=length))
    print(f"A sync of this disk takes {sync:.1f} ms; {os.cpu_count()} cores.\n\n{table(measurements)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    document = {"sync_ms": sync, "cores": os.cpu_count(), "measurements": [asdict(m) for m in measurements]}
    options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
