"""What test processes do: `python hands.py NAME URL ...` prints one JSON document a line."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import event

from aslconvert.workers.database import Database
from aslconvert.workers.errors import BlobNotFound, InfrastructureError, LeaseLost, problem
from aslconvert.workers.jobs import Claim, Idempotency, JobStore, Kind, NewJob, Queue
from aslconvert.workers.storage import Blobs, LocalBlobs

BROKEN = problem("disk_full", "No space.", kind="infrastructure")


def tell(**values: object) -> None:
    # In one piece, since several processes share the pipe.
    os.write(1, f"{json.dumps(values)}\n".encode())


def new(*blobs: str) -> NewJob:
    return NewJob(tenant="t", kind=Kind.CONVERT, queue=Queue.CPU, payload={}, blobs=blobs, max_attempts=20)


def together(work: Callable[[], object], processes: int) -> None:
    """Run the same in several processes; fails if one of them does. Forked, as an import takes a second of a core."""
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        children.append(child)
    ended = [os.waitpid(child, 0)[1] for child in children]
    if any(ended):
        raise RuntimeError(f"children ended with {ended}")


def claim_all(url: str, processes: str) -> None:
    """Claim jobs until there are none."""

    def work() -> None:
        store = JobStore(Database(url, patience=60))
        while claim := store.claim([Queue.CPU], worker=f"w{os.getpid()}"):
            tell(job=claim.job_id, token=claim.token, worker=claim.worker)

    together(work, int(processes))


def submit_keys(url: str, processes: str) -> None:
    """The same twenty idempotency keys from every process."""

    def work() -> None:
        store = JobStore(Database(url, patience=60))
        for number in range(20):
            tell(key=number, job=store.submit(new(), idempotency=Idempotency("s", f"k{number}")).id)

    together(work, int(processes))


def work(url: str, seed: str) -> None:
    """Everything that is done to jobs, at random and for ever."""
    store, chance = JobStore(Database(url, patience=60)), random.Random(seed)

    def end(claim: Claim) -> None:
        store.report(claim, stage="fit", events=[("loss", {"value": 1.0})])
        ways: list[Callable[[], object]] = [
            lambda: store.succeed(claim, {}),
            lambda: store.fail(claim, BROKEN),
            lambda: store.give_back(claim),
            lambda: store.retry_later(claim, BROKEN, delay=0),
            lambda: store.request_cancel(claim.job_id) and store.cancelled(claim),
        ]
        chance.choice(ways)()

    while True:
        tell(submitted=store.submit(new()).id)
        if claim := store.claim([Queue.CPU], worker=f"w{os.getpid()}"):
            try:
                end(claim)
            except LeaseLost:
                tell(lost=claim.job_id)


def die_at(url: str, digest: str) -> None:
    """Each operation in processes of their own, which die after their first, second, third... statement."""
    database = Database(url, patience=60)
    store = JobStore(database)
    operations: dict[str, Callable[[JobStore, Claim | None], object]] = {
        "submit": lambda store, _: store.submit(new(digest)),
        "claim": lambda store, _: store.claim([Queue.CPU], worker="w"),
        "report": lambda store, claim: store.report(_held(claim), stage="s", events=[("loss", {})]),
        "succeed": lambda store, claim: store.succeed(_held(claim), {"a": 1}, blobs=[digest]),
        "fail": lambda store, claim: store.fail(_held(claim), BROKEN),
        "give_back": lambda store, claim: store.give_back(_held(claim)),
        "retry_later": lambda store, claim: store.retry_later(_held(claim), BROKEN, delay=5),
    }
    for name, operation in operations.items():
        survived, step = False, 0
        while not survived:
            step += 1
            claim = None
            if name != "submit":
                job = store.submit(new())
                claim = None if name == "claim" else store.claim_id(job.id, worker="w")
            database.close()
            child = os.fork()
            if child == 0:
                _dying(url, step, lambda store, f=operation, c=claim: f(store, c))
            _, status = os.waitpid(child, 0)
            survived = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            if not survived and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
                raise RuntimeError(f"{name} ended with {status}")
            tell(operation=name, step=step, survived=survived, left=_snapshot(store))
            while claim := store.claim([Queue.CPU], worker="broom"):
                store.succeed(claim, {})
            for job in store.page(limit=100).jobs:
                _clean(store, job.id)


def _dying(url: str, step: int, operation: Callable[[JobStore], object]) -> None:
    database = Database(url, patience=60)
    left = [step]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(database.engine, "after_cursor_execute", count)
    event.listen(database.engine, "commit", count)
    try:
        operation(JobStore(database))
    finally:
        os._exit(0 if sys.exc_info()[0] is None else 1)


def _held(claim: Claim | None) -> Claim:
    if claim is None:
        raise RuntimeError("nothing was claimed")
    return claim


def _snapshot(store: JobStore) -> object:
    jobs = store.page().jobs
    if not jobs:
        return None
    (job,) = jobs
    return {
        "state": job.state,
        "stage": job.stage,
        "result": job.result,
        "attempts_made": job.attempts_made,
        "events": [event.type for event in store.events_after(job.id)],
        "count": job.event_count,
        "attempts": [attempt.outcome for attempt in store.attempts(job.id)],
        "outbox": len(store.unsent()),
        "held": store.database.read(
            lambda at: at.connection.exec_driver_sql("SELECT count(*) FROM blob_refs").scalar()
        ),
        "leased": store.database.read(
            lambda at: at.connection.exec_driver_sql("SELECT count(*) FROM jobs WHERE lease_expiry > 0").scalar()
        ),
    }


def _clean(store: JobStore, job_id: str) -> None:
    store.database.write(
        lambda at: [at.connection.exec_driver_sql(f"DELETE FROM {table}") for table in ("blob_refs", "jobs")]
    )


def put_and_hold(url: str, folder: str, rounds: str) -> None:
    """Put the same few blobs again and again, hold each, read it, let go."""
    blobs = Blobs(Database(url, patience=60), LocalBlobs(Path(folder)))
    late = 0
    for turn in range(int(rounds)):
        data = f"content {turn % 3}".encode() * 1000
        digest = blobs.put([data]).hash
        try:
            blobs.hold("test", str(os.getpid()), [digest])
        except BlobNotFound:
            late += 1  # this process stood still for longer than the grace period
            continue
        with blobs.store.open(digest) as file:
            if file.read() != data:
                raise RuntimeError("other bytes")
        blobs.release("test", str(os.getpid()))
    tell(late=late)


def collect(url: str, folder: str, grace: str) -> None:
    """Collect until the standard input ends."""
    blobs = Blobs(Database(url, patience=60), LocalBlobs(Path(folder)))
    collected = 0
    os.set_blocking(0, False)
    while os.read(0, 1) if _readable() else True:
        collected += len(blobs.collect(grace=float(grace)))
    tell(collected=collected)


def _readable() -> bool:
    import select

    return bool(select.select([0], [], [], 0)[0])


def put_limited(folder: str, limit: str, size: str) -> None:
    """Put more bytes than a file of this process may have."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    try:
        LocalBlobs(Path(folder)).put(bytes(1000) for _ in range(int(size) // 1000))
    except InfrastructureError as error:
        tell(code=error.code)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
