"""A worker's machine is cut off from the stores in the middle of a job: another takes over, once."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workers"))

import postgres
from cluster import redis_server, wait_for
from hosts import Hosts, hosts, lines

from aslconvert.workers.database import Database
from aslconvert.workers.jobs import FINISHED, Kind, NewJob, Queue, State

PATIENCE = 60.0
STEPS = 80
SETTINGS = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    binaries = postgres.programs()
    if redis_server() is None or binaries is None:
        pytest.skip("NO REDIS OR NO POSTGRESQL HERE: workers on several machines are not tested")
    with lines() as laid:
        if laid is None:
            pytest.skip(
                "NO NETWORK NAMESPACES HERE: a machine that is cut off is not tested; it needs root and iproute2"
            )
        with hosts(tmp_path_factory.mktemp("hosts"), binaries, laid) as made:
            yield made


def submit(at: Hosts) -> str:
    blob = at.blobs.put(io.BytesIO(b"a model"))
    payload = {"model": blob.hash, "options": {"do": "count", "to": STEPS, "pause": 0.05}}
    job = at.store.submit(NewJob("t", Kind.CONVERT, Queue.CPU, payload, max_attempts=5, blobs=[blob.hash]))
    at.outbox.wake()
    return job.id


def at_work(at: Hosts, job: str) -> str:
    """The host that works on the job, once it does."""
    wait_for(lambda: any(event.type == "progress" for event in at.store.events_after(job)), seconds=PATIENCE)
    return at.store.attempts(job)[-1].worker.rpartition("-")[0]


def test_a_machine_that_is_cut_off_is_taken_over_from_once_and_writes_nothing_later(two_hosts: Hosts) -> None:
    at = two_hosts
    job = submit(at)
    cut = at_work(at, job)
    at.lines.cut(cut)
    # Before its job could have ended, and after the lease is over by both ends' clocks.
    wait_for(lambda: len(at.store.attempts(job)) == 2, seconds=PATIENCE)
    assert at.store.job(job).state is State.RUNNING
    taken = len(at.store.events_after(job))
    at.lines.mend(cut)
    wait_for(lambda: at.store.job(job).state in FINISHED, seconds=PATIENCE)
    # It hears that it has lost the job, or knows by itself.
    wait_for(lambda: "attempt ends" in at.log(cut), seconds=PATIENCE)

    first, second = at.store.attempts(job)
    (other,) = set(at.lines.names) - {cut}
    assert (first.worker, second.worker) == (f"{cut}-{at.names.index(cut) + 1}", f"{other}-{at.names.index(other) + 1}")
    assert (first.outcome, second.outcome) == ("lost", "succeeded")
    ended = at.store.job(job)
    assert ended.state is State.SUCCEEDED
    assert ended.result is not None
    events = at.store.events_after(job)
    assert sum(event.type in FINISHED for event in events) == 1
    # What the second attempt tells is in order: nobody else tells anything in between.
    told = [event.data["done"] for event in events[taken:] if event.type == "progress"]
    assert told == sorted(set(told))
    with at.blobs.store.open(ended.result["files"]["answer.txt"]["sha256"]) as file:
        assert file.read() == str(STEPS).encode()


def test_both_ends_of_a_connection_give_up_one_that_is_silent(two_hosts: Hosts) -> None:
    """What the network itself does then is not waited for here: it takes a quarter of a minute."""
    url = two_hosts.server.url(address=two_hosts.lines.address)
    database = Database(url)
    try:
        raw = database.engine.raw_connection()
        told = raw.driver_connection.info.get_parameters()
        asked = [raw.driver_connection.execute(f"SHOW {name}").fetchone() for name in SETTINGS]
        raw.close()
    finally:
        database.close()
    assert 0 < int(told["tcp_user_timeout"]) <= 30_000
    assert 0 < int(told["keepalives_idle"]) + int(told["keepalives_count"]) * int(told["keepalives_interval"]) <= 30
    idle, interval, count, unanswered = (int(value) for (value,) in asked)
    assert (unanswered, idle + count * interval) == (10_000, 20)
