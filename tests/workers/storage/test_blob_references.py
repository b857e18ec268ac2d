"""References commit with their job; what nobody holds is collected, and nothing else."""

import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from clocks import SetClock

from aslconvert.workers.database import Database
from aslconvert.workers.errors import BlobNotFound, UserError
from aslconvert.workers.jobs import JobStore, Kind, NewJob, Queue
from aslconvert.workers.storage import Blobs, LocalBlobs, held_by

GRACE = 100.0


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def timed(url: str, clock: SetClock) -> Iterator[Database]:
    database = Database(url, clock=clock)
    yield database
    database.close()


@pytest.fixture
def blobs(timed: Database, tmp_path: Path) -> Blobs:
    return Blobs(timed, LocalBlobs(tmp_path / "blobs"))


def new(*hashes: str) -> NewJob:
    return NewJob(tenant="t", kind=Kind.CONVERT, queue=Queue.CPU, payload={}, blobs=hashes)


def test_a_job_holds_its_blobs_until_it_is_deleted(blobs: Blobs, timed: Database, clock: SetClock) -> None:
    store = JobStore(timed)
    model, other, report = (blobs.put([name]).hash for name in (b"model", b"other", b"report"))
    job = store.submit(new(model, model))
    claim = store.claim([Queue.CPU], worker="w")
    assert claim is not None
    store.succeed(claim, {"report": report}, blobs=[report])
    assert timed.read(lambda at: held_by(at, "job", job.id)) == sorted([model, report])
    assert blobs.collect(grace=GRACE) == []
    clock.wait(GRACE + 1)
    assert blobs.collect(grace=GRACE) == [other]
    assert [blobs.store.exists(digest) for digest in (model, other, report)] == [True, False, True]
    store.delete(job.id)
    assert sorted(blobs.collect(grace=GRACE)) == sorted([model, report])
    assert not blobs.store.exists(model)


def test_an_expired_job_lets_go(blobs: Blobs, timed: Database, clock: SetClock) -> None:
    store = JobStore(timed)
    digest = blobs.put([b"x"]).hash
    store.request_cancel(store.submit(new(digest)).id)
    clock.wait(7200)
    store.expire(keep=timedelta(hours=1))
    assert blobs.collect(grace=GRACE) == [digest]


def test_a_job_that_names_an_unknown_blob_is_not_stored(blobs: Blobs, timed: Database) -> None:
    store = JobStore(timed)
    known = blobs.put([b"x"]).hash
    with pytest.raises(BlobNotFound):
        store.submit(new(known, "0" * 64))
    assert store.page().jobs == []
    job = store.submit(new())
    claim = store.claim_id(job.id, worker="w")
    assert claim is not None
    with pytest.raises(BlobNotFound):
        store.succeed(claim, {}, blobs=["0" * 64])
    assert store.job(job.id).state == "running"
    assert [event.type for event in store.events_after(job.id)] == ["queued", "running"]


def test_putting_again_makes_a_blob_young(blobs: Blobs, clock: SetClock) -> None:
    digest = blobs.put([b"x"]).hash
    clock.wait(GRACE)
    blobs.put(io.BytesIO(b"x"))
    clock.wait(1)
    assert blobs.collect(grace=GRACE) == []
    clock.wait(GRACE)
    assert blobs.collect(grace=GRACE) == [digest]


def test_a_blob_with_a_date_is_kept_until_then(blobs: Blobs, clock: SetClock) -> None:
    digest = blobs.put([b"x"], expires=clock.day + timedelta(days=1)).hash
    blobs.put([b"x"])
    blobs.put([b"x"], expires=clock.day + timedelta(hours=1))
    clock.wait(86_399)
    assert blobs.collect(grace=GRACE) == []
    clock.wait(2)
    assert blobs.collect(grace=GRACE) == [digest]


def test_setting_the_wall_clock_ages_nothing_on_one_machine(blobs: Blobs, clock: SetClock) -> None:
    blobs.put([b"x"])
    clock.day += timedelta(days=400)
    assert blobs.collect(grace=GRACE) == []


def test_after_a_restart_a_blob_is_as_old_as_the_boot(blobs: Blobs, clock: SetClock) -> None:
    digest = blobs.put([b"x"]).hash
    clock.reboot()
    assert blobs.collect(grace=GRACE) == []
    clock.wait(GRACE + 1)
    assert blobs.collect(grace=GRACE) == [digest]


def test_a_collection_that_died_is_finished_by_the_next(blobs: Blobs, clock: SetClock) -> None:
    digest = blobs.put([b"x"]).hash
    blobs.store.delete(digest)
    clock.wait(GRACE + 1)
    assert blobs.collect(grace=GRACE) == [digest]
    assert blobs.collect(grace=GRACE) == []


def test_a_refused_blob_has_no_row(blobs: Blobs, clock: SetClock) -> None:
    def refuse(_: object) -> None:
        raise UserError("quota", "Too much.")

    with pytest.raises(UserError, match="Too much"):
        blobs.put([b"x"], admit=refuse)
    clock.wait(GRACE + 1)
    assert blobs.collect(grace=GRACE) == []


def test_a_put_needs_some_time_to_be_held(blobs: Blobs) -> None:
    with pytest.raises(UserError, match="grace"):
        blobs.collect(grace=0)


def test_an_adopted_file_is_entered(blobs: Blobs, tmp_path: Path) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(b"x")
    digest = blobs.adopt(path).hash
    blobs.hold("upload", "u1", [digest])
    blobs.hold("upload", "u1", [digest])
    blobs.release("upload", "u1")
    assert blobs.sweep() == 0
