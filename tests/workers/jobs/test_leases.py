"""Time: leases that end, clocks that are set, machines that restart; every clock here is the test's."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from clocks import SetClock

from aslconvert.workers.database import BootClock, Database, DatabaseClock
from aslconvert.workers.database.clock import StepWatch, boot_id, boot_seconds
from aslconvert.workers.errors import InternalError, LeaseLost, problem
from aslconvert.workers.jobs import Claim, Idempotency, JobStore, Kind, NewJob, Queue, Reaped, State

NEW = NewJob(tenant="t", kind=Kind.CONVERT, queue=Queue.CPU, payload={})
BROKEN = problem("disk_full", "No space.", kind="infrastructure")


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def timed(url: str, clock: SetClock) -> Iterator[JobStore]:
    database = Database(url, clock=clock)
    yield JobStore(database)
    database.close()


def claimed(store: JobStore, *, seconds: float = 30) -> Claim:
    claim = store.claim([Queue.CPU], worker="w", lease_seconds=seconds)
    assert claim is not None
    return claim


def test_a_silent_worker_loses_the_job_and_a_loud_one_keeps_it(timed: JobStore, clock: SetClock) -> None:
    loud, silent = timed.submit(NEW).id, timed.submit(NEW).id
    claims = {claim.job_id: claim for claim in (claimed(timed), claimed(timed))}
    for _ in range(4):
        clock.wait(10)
        timed.heartbeat(claims[loud])
    assert timed.reap() == [Reaped(silent, State.QUEUED)]
    assert timed.unsent() == [(silent, Queue.CPU)]
    with pytest.raises(LeaseLost):
        timed.heartbeat(claims[silent])
    assert [attempt.outcome for attempt in timed.attempts(silent)] == ["lost"]
    assert claimed(timed).token == 2


def test_a_late_heartbeat_saves_a_job_that_nobody_has_taken(timed: JobStore, clock: SetClock) -> None:
    timed.submit(NEW)
    claim = claimed(timed)
    clock.wait(100)
    timed.heartbeat(claim)
    assert timed.reap() == []
    timed.succeed(claim, {})


def test_a_job_that_kills_its_workers_is_poison(timed: JobStore, clock: SetClock) -> None:
    job = timed.submit(NEW)
    for state in (State.QUEUED, State.QUEUED, State.FAILED):
        claimed(timed)
        clock.wait(31)
        assert timed.reap() == [Reaped(job.id, state)]
    failed = timed.job(job.id)
    assert failed.problem is not None
    assert (failed.problem.code, failed.attempts_made) == ("poison", 3)
    assert timed.claim([Queue.CPU], worker="w") is None


def test_a_cancelling_job_of_a_silent_worker_is_cancelled(timed: JobStore, clock: SetClock) -> None:
    job = timed.submit(NEW)
    claim = claimed(timed)
    timed.request_cancel(job.id)
    clock.wait(31)
    assert timed.reap() == [Reaped(job.id, State.CANCELLED)]
    # The same state, but not this worker's doing: its result would be lost without a word.
    with pytest.raises(LeaseLost):
        timed.cancelled(claim, {"best": 1})


def test_setting_the_clock_forward_ends_no_live_lease(timed: JobStore, clock: SetClock) -> None:
    job = timed.submit(NEW)
    claim = claimed(timed)
    assert timed.reap() == []
    clock.step(86_400)
    assert timed.reap() == []
    clock.wait(10)
    timed.heartbeat(claim)
    clock.wait(25)
    assert timed.reap() == []
    clock.wait(10)
    assert timed.reap() == [Reaped(job.id, State.QUEUED)]


def test_setting_the_clock_back_does_not_keep_a_dead_lease(timed: JobStore, clock: SetClock) -> None:
    job = timed.submit(NEW)
    claimed(timed)
    clock.step(-500)
    assert timed.reap() == []
    clock.wait(29)
    assert timed.reap() == []
    clock.wait(2)
    assert timed.reap() == [Reaped(job.id, State.QUEUED)]


def test_no_holder_survives_a_restart_of_its_machine(timed: JobStore, clock: SetClock) -> None:
    job = timed.submit(NEW)
    claimed(timed)
    clock.reboot()
    assert JobStore(timed.database).reap() == [Reaped(job.id, State.QUEUED)]


def test_a_delayed_job_comes_back_in_its_time(timed: JobStore, clock: SetClock) -> None:
    job = timed.submit(NEW)
    timed.retry_later(claimed(timed), BROKEN, delay=60)
    clock.wait(59)
    assert timed.claim([Queue.CPU], worker="w") is None
    assert timed.claim_id(job.id, worker="w") is None
    assert (timed.position(job.id), timed.unsent(), timed.reap()) == (None, [], [])
    clock.wait(2)
    timed.reap()
    assert timed.unsent() == [(job.id, Queue.CPU)]
    assert claimed(timed).job_id == job.id


@pytest.mark.parametrize("change", ["back", "reboot"])
def test_a_delay_does_not_grow_with_a_clock_that_changes(timed: JobStore, clock: SetClock, change: str) -> None:
    timed.submit(NEW)
    timed.retry_later(claimed(timed), BROKEN, delay=60)
    if change == "back":
        clock.step(-10_000)
    else:
        clock.reboot()
    claimed(timed)


def test_a_delayed_job_can_be_cancelled(timed: JobStore, clock: SetClock) -> None:
    job = timed.submit(NEW)
    timed.retry_later(claimed(timed), BROKEN, delay=60)
    assert timed.request_cancel(job.id).state is State.CANCELLED
    clock.wait(61)
    assert timed.claim([Queue.CPU], worker="w") is None


def test_a_message_that_the_broker_lost_is_sent_again(timed: JobStore, clock: SetClock) -> None:
    job = timed.submit(NEW)
    timed.mark_sent([job.id])
    clock.wait(59)
    assert timed.unsent(resend_after=60) == []
    clock.wait(2)
    assert timed.unsent(resend_after=60) == [(job.id, Queue.CPU)]
    timed.mark_sent([job.id])
    clock.step(-1000)
    assert timed.unsent(resend_after=60) == [(job.id, Queue.CPU)]


def test_finished_jobs_are_emptied_when_their_time_is_over(timed: JobStore, clock: SetClock) -> None:
    old = timed.submit(NEW, idempotency=Idempotency("s", "k"))
    timed.succeed(claimed(timed), {"big": 1})
    clock.wait(7200)
    young, waiting = timed.submit(NEW), timed.submit(NEW)
    timed.fail(claimed(timed), BROKEN)
    assert timed.expire(keep=timedelta(hours=1)) == [old.id]
    assert timed.expire(keep=timedelta(hours=1)) == []
    expired = timed.job(old.id)
    assert (expired.state, expired.result) == (State.EXPIRED, None)
    assert [event.type for event in timed.events_after(old.id)] == ["expired"]
    assert [timed.job(job.id).state for job in (young, waiting)] == [State.FAILED, State.QUEUED]
    assert timed.submit(NEW, idempotency=Idempotency("s", "k")).id == old.id
    clock.wait(86_400)
    timed.expire(keep=timedelta(days=30))
    assert timed.submit(NEW, idempotency=Idempotency("s", "k")).id != old.id


def test_leases_and_delays_have_bounds(timed: JobStore) -> None:
    timed.submit(NEW)
    for seconds in (0, -1, 10**6, float("nan")):
        with pytest.raises(InternalError):
            timed.claim([Queue.CPU], worker="w", lease_seconds=seconds)
    with pytest.raises(InternalError):
        timed.claim([Queue.CPU], worker="")
    claim = claimed(timed)
    for delay in (-1, 10**6, float("nan")):
        with pytest.raises(InternalError):
            timed.retry_later(claim, BROKEN, delay=delay)


def test_every_database_has_its_own_clock(database: Database) -> None:
    assert isinstance(database.clock, BootClock if database.is_sqlite else DatabaseClock)
    first = boot_seconds()
    store = JobStore(database)
    store.submit(NEW)
    claim = store.claim([Queue.CPU], worker="w", lease_seconds=0.001)
    assert claim is not None
    # No sleep: the reaper's look is what takes the time.
    while not store.reap():
        assert boot_seconds() - first < 60
    assert boot_id() == boot_id()


def test_the_watch_forgives_drift_and_not_steps() -> None:
    watch = StepWatch(tolerance=2.0)
    assert watch.allows(shared=1000, local=0, grace=30)
    assert watch.allows(shared=1101.5, local=100, grace=30)
    assert not watch.allows(shared=1205, local=101, grace=30)
    assert not watch.allows(shared=1234, local=130, grace=30)
    assert watch.allows(shared=1236, local=132, grace=30)
    assert watch.allows(shared=5, local=133, grace=30)
