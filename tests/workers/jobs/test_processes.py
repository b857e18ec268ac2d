"""Several processes at one store, and processes that are killed at every point."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clocks import SetClock

from aslconvert.workers.database import Database
from aslconvert.workers.jobs import FINISHED, JobStore, Kind, NewJob, Queue, State
from aslconvert.workers.storage import Blobs, LocalBlobs

HANDS = Path(__file__).parents[1] / "hands.py"
NEW = NewJob(tenant="t", kind=Kind.CONVERT, queue=Queue.CPU, payload={})


@contextmanager
def hands(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, str(HANDS), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def run(*arguments: str) -> list[dict[str, object]]:
    done = subprocess.run([sys.executable, str(HANDS), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return lines(done.stdout)


def test_eight_workers_share_no_job_and_leave_none(store: JobStore, url: str) -> None:
    jobs = {store.submit(NEW).id for _ in range(400)}
    told = run("claim_all", url, "8")
    assert Counter(line["job"] for line in told) == Counter(jobs)
    assert {line["token"] for line in told} == {1}
    assert len({line["worker"] for line in told}) > 1
    assert store.claim([Queue.CPU], worker="w") is None


def test_one_key_at_the_same_time_makes_one_job(store: JobStore, url: str) -> None:
    told = run("submit_keys", url, "4")
    assert len(told) == 80
    found = {job.id for job in store.page(limit=100).jobs}
    assert len(found) == 20
    assert {(line["key"], line["job"]) for line in told} == set(enumerate(sorted(found)))


def test_a_process_that_dies_leaves_all_or_nothing(url: str, tmp_path: Path) -> None:
    database = Database(url)
    digest = Blobs(database, LocalBlobs(tmp_path / "blobs")).put([b"x"]).hash
    database.close()
    told = run("die_at", url, digest)
    operations = {str(line["operation"]) for line in told}
    assert len(operations) == 7
    for name in operations:
        left = [line["left"] for line in told if line["operation"] == name]
        before, after = left[0], left[-1]
        assert before != after, name
        assert len(left) > 3, "it died too seldom"
        switch = left.index(after)
        # The last death is after the commit's statement was sent or after everything.
        assert left == [before] * switch + [after] * (len(left) - switch), name
        assert switch >= len(left) - 2, name


@pytest.mark.parametrize("seed", range(2))
def test_kills_at_any_moment_break_no_rule(store: JobStore, url: str, seed: int) -> None:
    chance = random.Random(seed)
    submitted: set[str] = set()
    for turn in range(3):
        with hands("work", url, f"{seed} {turn}") as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 30)):
                submitted |= {
                    str(line["submitted"]) for line in lines(process.stdout.readline()) if "submitted" in line
                }
            process.kill()
    found: dict[str, State] = {}
    cursor = None
    while True:
        page = store.page(cursor=cursor, limit=100)
        found |= {job.id: job.state for job in page.jobs}
        for job in page.jobs:
            check(store, job.id)
        cursor = page.cursor
        if cursor is None:
            break
    assert submitted <= set(found)
    # As if all machines had restarted since, so that nothing here waits for leases to end.
    later = JobStore(Database(url, clock=SetClock(boot="later")))
    later.reap()
    while claim := later.claim([Queue.CPU], worker="broom"):
        later.succeed(claim, {})
    later.database.close()
    assert {store.job(job_id).state for job_id in found} <= FINISHED


def check(store: JobStore, job_id: str) -> None:
    job, events, attempts = store.job(job_id), store.events_after(job_id), store.attempts(job_id)
    assert [event.number for event in events] == list(range(1, job.event_count + 1))
    assert [attempt.token for attempt in attempts] == list(range(1, len(attempts) + 1))
    open_attempts = [attempt for attempt in attempts if attempt.ended is None]
    assert len(open_attempts) == (job.state in {State.RUNNING, State.CANCELLING})
    assert sum(event.type == "running" for event in events) == len(attempts)
    ends = [event.type for event in events if event.type in FINISHED]
    assert ends == ([job.state] if job.state in FINISHED else [])
    assert (job.finished is not None) == (job.state in FINISHED)
