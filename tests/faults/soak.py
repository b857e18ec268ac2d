"""`make soak`: jobs through a real deployment while its parts are killed at random moments; writes soak.json.

Each run submits a few jobs that count in small steps and keep their state, does one thing to the deployment, and waits
until all jobs have ended. What went wrong is counted: jobs lost, results given twice, wrong outcomes, and states that
could not be gone on from.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workers"))

import postgres
from cluster import Cluster, cluster, postgres_cluster, wait_for
from over_http import hit_api
from tally import JOBS, PATIENCE, PAUSE, STEPS, Hit, Tally

from aslconvert.workers.jobs import FINISHED, Job, Kind, NewJob, Queue, State

FLUSHED = 0.7
CANCELLED_WITHIN = 5.0
DISK_MIB = 64


def kill_sandbox(at: Cluster, jobs: Sequence[Job]) -> None:
    for group in at.sandboxes():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def kill_worker(at: Cluster, jobs: Sequence[Job]) -> None:
    name = random.choice(list(at.workers))
    at.stop_worker(name, signal.SIGKILL)
    at.start_worker(name)


def stop_worker(at: Cluster, jobs: Sequence[Job]) -> None:
    name = random.choice(list(at.workers))
    at.stop_worker(name, signal.SIGTERM)
    at.start_worker(name)


def kill_redis(at: Cluster, jobs: Sequence[Job]) -> None:
    at.redis.kill()
    time.sleep(random.uniform(0, 1))
    at.redis.start()


def same_id_twice(at: Cluster, jobs: Sequence[Job]) -> None:
    for job in jobs:
        for _ in range(2):
            at.app.send_task("aslconvert.work", args=[job.id], queue="aslconvert.cpu")


def lock_database(at: Cluster, jobs: Sequence[Job]) -> None:
    with contextlib.closing(sqlite3.connect(at.place / "jobs.db", isolation_level=None, timeout=30)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        time.sleep(random.uniform(0.5, 1.5))
        holder.execute("ROLLBACK")


def freeze_worker(at: Cluster, jobs: Sequence[Job]) -> None:
    """A machine that stands still for longer than its leases, and then goes on as if nothing had been."""
    process = at.workers[random.choice(list(at.workers))]
    process.send_signal(signal.SIGSTOP)
    time.sleep(random.uniform(2.5, 4))
    process.send_signal(signal.SIGCONT)


def fill_disk(at: Cluster, jobs: Sequence[Job]) -> None:
    """No space for the database, blobs, jobs and Redis alike, for a moment."""
    ballast = at.place / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    time.sleep(random.uniform(1, 2))
    ballast.unlink()
    if not at.redis.alive:
        # It ends rather than forget what it has acknowledged; whoever runs it starts it again.
        at.redis.start()


def cancel(at: Cluster, jobs: Sequence[Job]) -> None:
    at.store.request_cancel(jobs[0].id)


def set_clock(at: Cluster, jobs: Sequence[Job]) -> None:
    """Somebody sets the clock of workers and database by an hour or two, forward or back."""
    if at.clock is None:
        raise ValueError("this deployment goes by the true time")
    at.clock.set(random.choice((-7200, -3600, 3600, 7200)))


def restart_database(at: Cluster, jobs: Sequence[Job]) -> None:
    _bounce(at, "fast")


def kill_database(at: Cluster, jobs: Sequence[Job]) -> None:
    _bounce(at, "immediate")


def _bounce(at: Cluster, mode: str) -> None:
    if at.server is None:
        raise ValueError("this deployment has no database server")
    at.server.stop(mode=mode)
    time.sleep(random.uniform(0, 2))
    at.server.start()


Fault = Callable[[Cluster, Sequence[Job]], None]
# None: one of a deployment whose jobs come over HTTP.
FAULTS: dict[str, Fault | None] = {
    "kill -9 of the sandbox": kill_sandbox,
    "kill -9 of a worker": kill_worker,
    "SIGTERM to a worker": stop_worker,
    "kill -9 of Redis": kill_redis,
    "one id to two workers": same_id_twice,
    "database locked": lock_database,
    "a worker frozen past its lease": freeze_worker,
    "disk full": fill_disk,
    "cancel": cancel,
    "kill -9 of the API": None,
    "clock set": set_clock,
}
ON_POSTGRES: dict[str, Fault | None] = {
    "PostgreSQL restarted": restart_database,
    "PostgreSQL stopped at once": kill_database,
    "clock of PostgreSQL set": set_clock,
    "kill -9 of a worker, on PostgreSQL": kill_worker,
    "kill -9 of the API, on PostgreSQL": None,
}
if os.geteuid() != 0:
    # A disk small enough to be filled is mounted, which root alone may.
    del FAULTS["disk full"]


def one_run(at: Cluster, fault: str, tally: Tally) -> None:
    """Jobs, one fault, and the count of what went wrong."""
    strike = {**FAULTS, **ON_POSTGRES}[fault]
    hit = hit_api(at, tally) if strike is None else _hit(at, strike)
    jobs = hit.jobs
    if fault == "cancel":
        # Not by the times of events: the clock that they are of may have been set in an earlier run.
        try:
            wait_for(lambda: at.store.job(jobs[0].id).state in FINISHED, seconds=CANCELLED_WITHIN)
        except TimeoutError:
            tally.cancelled_late += 1
    # What was told before the fault may be stored after it; what is told from here on is told by a job that goes on.
    time.sleep(FLUSHED)
    counts = {job.id: at.store.job(job.id).event_count for job in hit.before if job.state is State.RUNNING}

    def recovered() -> bool:
        now = [at.store.job(key) for key in counts]
        return all(job.state in FINISHED or job.event_count > counts[job.id] for job in now)

    with contextlib.suppress(TimeoutError):
        wait_for(recovered, seconds=PATIENCE)
    tally.recovery_s.append(time.monotonic() - hit.begun)
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: all(at.store.job(job.id).state in FINISHED for job in jobs), seconds=PATIENCE)
    tally.runs += 1
    tally.faults[fault] += 1
    for number, job in enumerate(jobs):
        _judge(at, job.id, hit.states.get(job.id), tally, cancelled=fault == "cancel" and number == 0)


def _hit(at: Cluster, strike: Fault) -> Hit:
    blob = at.blobs.put(io.BytesIO(b"a model"))
    payload = {"model": blob.hash, "options": {"do": "count", "to": STEPS, "pause": PAUSE}}
    new = NewJob("soak", Kind.CONVERT, Queue.CPU, payload, max_attempts=20, blobs=[blob.hash])
    jobs = [at.store.submit(new) for _ in range(JOBS)]
    at.outbox.wake()
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: any(at.store.job(job.id).state is not State.QUEUED for job in jobs), seconds=PATIENCE)
    time.sleep(random.uniform(0, STEPS * PAUSE))
    before = [at.store.job(job.id) for job in jobs]
    states = {job.id: at.store.checkpoint(job.id) for job in jobs}
    begun = time.monotonic()
    strike(at, jobs)
    return Hit(jobs, before, states, begun)


def _judge(at: Cluster, job_id: str, state: str | None, tally: Tally, *, cancelled: bool) -> None:
    job = at.store.job(job_id)
    ends = [event for event in at.store.events_after(job_id) if event.type in FINISHED]
    if job.state not in FINISHED:
        tally.lost += 1
        return
    if len(ends) != 1:
        tally.duplicated += 1
    if cancelled and job.state is State.CANCELLED:
        return
    answer = None
    if job.state is State.SUCCEEDED and job.result is not None:
        with at.blobs.store.open(job.result["files"]["answer.txt"]["sha256"]) as file:
            answer = file.read()
        if state is not None and job.result["begun"] == 0 and len(at.store.attempts(job_id)) > 1:
            tally.unusable_checkpoints += 1
    if answer != str(STEPS).encode():
        tally.wrong += 1
        print(f"{job_id}: {job.state}, {job.problem}", file=sys.stderr)


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of its own at ``place``, where that may be made."""
    if os.geteuid() != 0:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def soak(runs: int, *, seed: int, place: Path) -> Tally:
    """``runs`` faults, each kind in turn, at moments that ``seed`` draws; those of PostgreSQL where it is installed."""
    random.seed(seed)
    tally = Tally()
    binaries = postgres.programs()
    if binaries is None:
        print("NO POSTGRESQL HERE: its faults are left out", file=sys.stderr)
    kinds = len(FAULTS) + (len(ON_POSTGRES) if binaries else 0)
    turns = [number % kinds for number in range(runs)]
    with small_disk(place), cluster(place) as at:
        _in_turn(at, [list(FAULTS)[turn] for turn in turns if turn < len(FAULTS)], tally)
    others = [list(ON_POSTGRES)[turn - len(FAULTS)] for turn in turns if turn >= len(FAULTS)]
    if others and binaries:
        # Where another user, as whom the server runs, can reach the clock.
        with tempfile.TemporaryDirectory(prefix="aslconvert-soak-") as folder:
            Path(folder).chmod(0o755)
            with postgres_cluster(Path(folder), binaries) as at:
                _in_turn(at, others, tally)
    return tally


def _in_turn(at: Cluster, faults: Sequence[str], tally: Tally) -> None:
    for number, fault in enumerate(faults):
        one_run(at, fault, tally)
        print(f"{number + 1}/{len(faults)} {fault}: {tally.recovery_s[-1]:.1f} s", flush=True)
    with contextlib.suppress(TimeoutError):
        # Whoever takes the place of a killed worker clears up after it, and may have been started just now.
        wait_for(lambda: not _left(at), seconds=PATIENCE)
    if left := _left(at):
        tally.wrong += 1
        print(f"left of jobs that have ended: {left}", file=sys.stderr)


def _left(at: Cluster) -> list[object]:
    return [*at.sandboxes(), *(at.place / "work").rglob("spec.json")]


def main() -> int:
    """Prints and writes the tally; 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--real", type=int, default=0, help="real conversions besides, each hit once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/soak/soak.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aslconvert-soak-") as folder:
        tally = soak(options.runs, seed=options.seed, place=Path(folder))
    if options.real:
        # With torch, which jobs that only count do without.
        from real import conversions

        with tempfile.TemporaryDirectory(prefix="aslconvert-soak-") as folder:
            tally = tally.plus(conversions(options.real, seed=options.seed, place=Path(folder)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(tally.to_json(), indent=1) + "\n")
    print(json.dumps(tally.to_json(), indent=1))
    return int(not tally.clean)


if __name__ == "__main__":
    sys.exit(main())
