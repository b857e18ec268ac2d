"""One job at a time: every way through the states, on both databases."""

import pytest

from aslconvert.workers.errors import (
    IdempotencyMismatch,
    IllegalTransition,
    InternalError,
    JobActive,
    JobNotFound,
    LeaseLost,
    UserError,
    problem,
)
from aslconvert.workers.jobs import Idempotency, JobStore, Kind, NewJob, Progress, Queue, State

BROKEN = problem("disk_full", "No space.", kind="infrastructure")


def new(**changes: object) -> NewJob:
    values: dict[str, object] = {
        "tenant": "t",
        "kind": Kind.CONVERT,
        "queue": Queue.CPU,
        "payload": {"model": "m"},
    } | changes
    return NewJob(**values)  # type: ignore[arg-type]  # a test may pass what does not fit


def told(store: JobStore, job_id: str) -> list[str]:
    events = store.events_after(job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    return [event.type for event in events]


def test_a_job_from_submission_to_success(store: JobStore) -> None:
    job = store.submit(new())
    assert (job.state, job.attempts_made, store.position(job.id)) == (State.QUEUED, 0, 1)
    assert store.unsent() == [(job.id, Queue.CPU)]
    claim = store.claim([Queue.CPU], worker="w")
    assert claim is not None
    assert (claim.job_id, claim.token, claim.job.state) == (job.id, 1, State.RUNNING)
    assert claim.job.payload == {"model": "m"}
    assert store.unsent() == []
    assert store.claim([Queue.CPU], worker="w") is None
    assert not store.report(claim, stage="fit", progress=Progress(1, 5, "sites"), events=[("loss", {"value": 0.5})])
    assert store.job(job.id).progress == Progress(1, 5, "sites")
    assert not store.report(claim, stage="heal")
    assert (store.job(job.id).stage, store.job(job.id).progress) == ("heal", None)
    store.succeed(claim, {"report": "r"})
    done = store.job(job.id)
    assert (done.state, done.result, done.attempts_made) == (State.SUCCEEDED, {"report": "r"}, 1)
    assert done.finished is not None
    assert done.finished.tzinfo is not None
    assert told(store, job.id) == ["queued", "running", "stage", "progress", "loss", "stage", "succeeded"]
    assert [(a.token, a.worker, a.outcome) for a in store.attempts(job.id)] == [(1, "w", "succeeded")]


def test_an_end_told_twice_is_one_end(store: JobStore) -> None:
    job = store.submit(new())
    claim = store.claim_id(job.id, worker="w")
    assert claim is not None
    store.succeed(claim, {"a": 1})
    store.succeed(claim, {"a": 1})
    assert told(store, job.id) == ["queued", "running", "succeeded"]
    for late in (lambda: store.fail(claim, BROKEN), lambda: store.heartbeat(claim), lambda: store.give_back(claim)):
        with pytest.raises(LeaseLost):
            late()
    assert store.job(job.id).state is State.SUCCEEDED


def test_the_order_of_claims(store: JobStore) -> None:
    late, first, second = (store.submit(new(priority=priority)).id for priority in (5, 0, 0))
    cuda = store.submit(new(queue=Queue.CUDA)).id
    assert [store.position(job_id) for job_id in (late, first, second, cuda)] == [3, 1, 2, 1]
    claims = [store.claim([Queue.CUDA, Queue.CPU], worker="w") for _ in range(5)]
    assert [claim and claim.job_id for claim in claims] == [cuda, first, second, late, None]


def test_the_second_message_with_an_id_finds_the_lease(store: JobStore) -> None:
    job = store.submit(new())
    assert store.claim_id(job.id, worker="a") is not None
    assert store.claim_id(job.id, worker="b") is None
    assert store.claim_id("none", worker="b") is None


def test_failure_keeps_its_problem(store: JobStore) -> None:
    job = store.submit(new())
    claim = store.claim_id(job.id, worker="w")
    assert claim is not None
    store.fail(claim, BROKEN)
    assert store.job(job.id).problem == BROKEN
    assert store.attempts(job.id)[0].problem == BROKEN
    assert store.events_after(job.id, 2)[0].data["problem"]["type"] == "urn:aslconvert:problem:disk_full"


def test_giving_back_does_not_count(store: JobStore) -> None:
    job = store.submit(new(max_attempts=1))
    for token in (1, 2, 3):
        claim = store.claim_id(job.id, worker="w")
        assert claim is not None
        assert claim.token == token
        assert store.give_back(claim) is State.QUEUED
        assert store.job(job.id).attempts_made == 0
        assert store.unsent() == [(job.id, Queue.CPU)]
        with pytest.raises(LeaseLost):
            store.heartbeat(claim)


def test_an_earlier_holder_is_fenced_off(store: JobStore) -> None:
    job = store.submit(new())
    old = store.claim_id(job.id, worker="old")
    assert old is not None
    store.give_back(old)
    current = store.claim_id(job.id, worker="new")
    assert current is not None
    for write in (
        lambda: store.heartbeat(old),
        lambda: store.report(old, stage="x"),
        lambda: store.succeed(old, {}),
        lambda: store.fail(old, BROKEN),
        lambda: store.cancelled(old),
        lambda: store.give_back(old),
        lambda: store.retry_later(old, BROKEN, delay=0),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert told(store, job.id) == ["queued", "running", "requeued", "running"]
    store.succeed(current, {})


def test_cancelling_a_queued_job_is_immediate(store: JobStore) -> None:
    job = store.submit(new())
    assert store.request_cancel(job.id).state is State.CANCELLED
    assert store.request_cancel(job.id).state is State.CANCELLED
    assert told(store, job.id) == ["queued", "cancelled"]
    assert store.claim([Queue.CPU], worker="w") is None
    assert store.unsent() == []


def test_cancelling_a_job_at_work(store: JobStore) -> None:
    job = store.submit(new())
    claim = store.claim_id(job.id, worker="w")
    assert claim is not None
    with pytest.raises(IllegalTransition):
        store.cancelled(claim)
    assert store.request_cancel(job.id).state is State.CANCELLING
    assert store.request_cancel(job.id).state is State.CANCELLING
    assert store.heartbeat(claim)
    assert store.report(claim, stage="heal")
    store.cancelled(claim, {"best": 1})
    done = store.job(job.id)
    assert (done.state, done.result) == (State.CANCELLED, {"best": 1})
    assert told(store, job.id) == ["queued", "running", "cancelling", "stage", "cancelled"]


@pytest.mark.parametrize("way", ["give_back", "retry_later"])
def test_a_job_that_is_to_be_cancelled_is_not_queued_again(store: JobStore, way: str) -> None:
    job = store.submit(new())
    claim = store.claim_id(job.id, worker="w")
    assert claim is not None
    store.request_cancel(job.id)
    state = store.give_back(claim) if way == "give_back" else store.retry_later(claim, BROKEN, delay=1)
    assert state is store.job(job.id).state is State.CANCELLED
    assert store.job(job.id).problem is None
    assert told(store, job.id)[-1] == "cancelled"


def test_the_last_retry_fails_with_its_problem(store: JobStore) -> None:
    job = store.submit(new(max_attempts=2))
    for state in (State.QUEUED, State.FAILED):
        claim = store.claim_id(job.id, worker="w")
        assert claim is not None
        assert store.retry_later(claim, BROKEN, delay=0) is state
    assert store.job(job.id).problem == BROKEN
    assert told(store, job.id) == ["queued", "running", "requeued", "running", "failed"]


def test_an_idempotency_key_names_one_job(store: JobStore) -> None:
    key = Idempotency("scope", "k")
    first = store.submit(new(), idempotency=key)
    assert store.submit(new(), idempotency=key).id == first.id
    assert store.submit(new(), idempotency=Idempotency("other", "k")).id != first.id
    with pytest.raises(IdempotencyMismatch):
        store.submit(new(payload={"model": "other"}), idempotency=key)
    assert len(store.page().jobs) == 2
    with pytest.raises(UserError, match="1 to 255"):
        store.submit(new(), idempotency=Idempotency("scope", "\n"))


def test_a_tenant_sees_no_other(store: JobStore) -> None:
    job = store.submit(new())
    for ask in (
        lambda: store.job(job.id, tenant="x"),
        lambda: store.events_after(job.id, tenant="x"),
        lambda: store.request_cancel(job.id, tenant="x"),
        lambda: store.delete(job.id, tenant="x"),
    ):
        with pytest.raises(JobNotFound):
            ask()
    assert store.job(job.id, tenant="t") == job
    assert store.page(tenant="x").jobs == []


def test_only_finished_jobs_are_deleted_with_all_they_have(store: JobStore) -> None:
    job = store.submit(new(), idempotency=Idempotency("s", "k"))
    with pytest.raises(JobActive):
        store.delete(job.id)
    claim = store.claim_id(job.id, worker="w")
    assert claim is not None
    with pytest.raises(JobActive):
        store.delete(job.id)
    store.succeed(claim, {})
    store.delete(job.id)
    assert store.attempts(job.id) == []
    with pytest.raises(JobNotFound):
        store.events_after(job.id)
    assert store.submit(new(), idempotency=Idempotency("s", "k")).id != job.id


def test_pages_are_newest_first_and_complete(store: JobStore) -> None:
    ids = [store.submit(new(kind=Kind.BENCH if n % 2 else Kind.CONVERT)).id for n in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = store.page(limit=3, cursor=cursor)
        seen += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
        assert page.jobs[-1].id not in cursor
    assert seen == ids[::-1]
    assert [job.id for job in store.page(kind=Kind.BENCH).jobs] == ids[1::2][::-1]
    store.request_cancel(ids[0])
    assert [job.id for job in store.page(state=State.CANCELLED).jobs] == [ids[0]]
    for bad in ("", "x", "MTp4", "é", "MTo"):
        with pytest.raises(UserError, match="cursor"):
            store.page(cursor=bad)


def test_a_page_is_capped(store: JobStore) -> None:
    for _ in range(101):
        store.submit(new())
    page = store.page(limit=10**6)
    assert len(page.jobs) == 100
    assert page.cursor is not None


def test_figures(store: JobStore) -> None:
    ids = [store.submit(new()).id for _ in range(3)]
    store.request_cancel(ids[0])
    assert store.claim([Queue.CPU], worker="w") is not None
    cpu, cuda = store.figures()
    assert cpu.states == {State.QUEUED: 1, State.RUNNING: 1, State.CANCELLED: 1}
    assert 0 <= cpu.oldest_ready_seconds < 60
    assert 0 <= cpu.longest_silence_seconds < 60
    assert (cuda.states, cuda.oldest_ready_seconds) == ({}, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": ""},
        {"tenant": "a\0"},
        {"kind": "cook"},
        {"queue": "tpu"},
        {"max_attempts": 0},
        {"priority": 10**9},
        {"payload": {"x": float("nan")}},
        {"payload": {"x": object()}},
        {"payload": {"x": "y" * 70_000}},
    ],
)
def test_what_is_no_job_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UserError):
        new(**changes)


def test_a_worker_cannot_write_the_store_s_own_events(store: JobStore) -> None:
    job = store.submit(new())
    claim = store.claim_id(job.id, worker="w")
    assert claim is not None
    for kind, data in (
        ("succeeded", {}),
        ("end", {}),
        ("not a word", {}),
        ("loss", {"x": float("inf")}),
        ("loss", {"x": "y" * 70_000}),
    ):
        with pytest.raises(InternalError):
            store.report(claim, events=[(kind, data)])
    assert told(store, job.id) == ["queued", "running"]


def test_the_outbox_tells_again_of_what_nobody_took(store: JobStore) -> None:
    job = store.submit(new())
    store.mark_sent([job.id])
    assert store.unsent(resend_after=60) == []
    assert store.unsent(resend_after=0) == [(job.id, Queue.CPU)]
