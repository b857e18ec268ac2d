"""One job, one outcome: what the supervisor makes of all that can become of an attempt."""

import contextlib
import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aslconvert.workers.database import Database
from aslconvert.workers.jobs import Claim, Job, JobStore, Kind, NewJob, Queue, State
from aslconvert.workers.policy import Outcome, SupervisorSettings
from aslconvert.workers.sandbox.limits import Limits
from aslconvert.workers.storage import Blobs, LocalBlobs
from aslconvert.workers.supervisor import Supervisor
from aslconvert.workers.worker import Worker

HERE = Path(__file__).parent
SETTINGS = SupervisorSettings(
    engine="small_engine:run",
    environment={"PYTHONPATH": str(HERE)},
    flush=0.05,
    checkpoint=0.2,
    grace=5.0,
    cancel_grace=1.0,
    retry_delay=0.0,
)


@pytest.fixture
def place(quick: Path, migrated: bytes) -> Path:
    """A folder with a database that has the tables."""
    (quick / "jobs.db").write_bytes(migrated)
    return quick


@pytest.fixture
def store(place: Path) -> Iterator[JobStore]:
    database = Database(f"sqlite:///{place / 'jobs.db'}")
    yield JobStore(database)
    database.close()


@pytest.fixture
def blobs(store: JobStore, place: Path) -> Blobs:
    return Blobs(store.database, LocalBlobs(place / "blobs"))


@pytest.fixture
def supervisor(store: JobStore, blobs: Blobs, place: Path) -> Supervisor:
    return Supervisor(store, blobs, folder=place / "work", settings=SETTINGS)


def submit(store: JobStore, blobs: Blobs, **options: Any) -> Job:
    blob = blobs.put(io.BytesIO(b"a model"))
    payload = {"model": blob.hash, "options": options}
    return store.submit(NewJob("tenant", Kind.CONVERT, Queue.CPU, payload, blobs=[blob.hash]))


def claimed(store: JobStore, *, lease: float = 10.0, worker: str = "one") -> Claim:
    claim = store.claim([Queue.CPU], worker=worker, lease_seconds=lease)
    assert claim is not None
    return claim


def left(place: Path) -> list[Path]:
    return [path for path in (place / "work").rglob("*") if path.is_file() and not path.name.endswith(".lock")]


def test_a_result_is_stored_under_its_hash_and_nothing_else_is_left(
    store: JobStore, blobs: Blobs, supervisor: Supervisor, place: Path
) -> None:
    job = submit(store, blobs, do="write")
    assert supervisor.see_through(claimed(store)) is Outcome.SUCCEEDED
    job = store.job(job.id)
    assert job.state is State.SUCCEEDED
    assert job.result is not None
    answer = job.result["files"]["answer.txt"]
    with blobs.store.open(answer["sha256"]) as file:
        assert file.read() == b"A MODEL"
    assert answer["size"] == 7
    events = store.events_after(job.id)
    kinds = [event.type for event in events]
    assert [kinds[0], kinds[1], kinds[-1]] == ["queued", "running", "succeeded"]
    assert {"confined", "stage", "progress", "note", "figures"} <= set(kinds)
    assert [event.data["loss"] for event in events if event.type == "figures"] == [0.5]
    assert left(place) == []
    assert store.checkpoint(job.id) is None


def test_a_cancelled_job_ends_within_seconds_even_if_it_will_not(
    store: JobStore, blobs: Blobs, supervisor: Supervisor, place: Path
) -> None:
    for options in ({"do": "hang"}, {"do": "count", "to": 10_000}):
        job = submit(store, blobs, **options)
        with running(supervisor, claimed(store, lease=1.0)) as ended:
            wait_for(lambda job=job: any(event.type == "stage" for event in store.events_after(job.id)))
            store.request_cancel(job.id)
            asked = time.monotonic()
            assert ended() is Outcome.CANCELLED
            assert time.monotonic() - asked < 5
        assert store.job(job.id).state is State.CANCELLED
        assert left(place) == []
    # The best it had is kept.
    assert store.checkpoint(job.id) is not None


def test_a_job_that_is_given_back_goes_on_where_it_was(
    store: JobStore, blobs: Blobs, supervisor: Supervisor, place: Path
) -> None:
    job = submit(store, blobs, do="count", to=60)
    stop = threading.Event()
    with running(supervisor, claimed(store), stopping=stop.is_set) as ended:
        wait_for(lambda: (store.job(job.id).progress or _None).done >= 5)
        stop.set()
        assert ended() is Outcome.GIVEN_BACK
    found = store.job(job.id)
    assert (found.state, found.attempts_made) == (State.QUEUED, 0)
    assert supervisor.see_through(claimed(store, worker="two")) is Outcome.SUCCEEDED
    found = store.job(job.id)
    assert found.result is not None
    assert 5 <= found.result["begun"] < 60


def test_a_killed_worker_costs_time_and_nothing_else(store: JobStore, blobs: Blobs, place: Path) -> None:
    job = submit(store, blobs, do="count", to=100)
    with subprocess.Popen([sys.executable, "-c", WORKER, str(HERE), str(place)]) as process:
        wait_for(lambda: store.checkpoint(job.id) is not None)
        process.send_signal(signal.SIGKILL)
    other = Worker(
        store, blobs, queues=[Queue.CPU], folder=place / "work", settings=SETTINGS, lease_seconds=1.0, name="two"
    )
    thread = threading.Thread(target=other.run)
    thread.start()
    try:
        wait_for(lambda: store.job(job.id).state is State.SUCCEEDED, seconds=60)
    finally:
        other.stop()
        thread.join()
    found = store.job(job.id)
    assert found.result is not None
    assert found.result["begun"] > 0
    assert [attempt.outcome for attempt in store.attempts(job.id)] == ["lost", "succeeded"]
    assert sum(event.type == "succeeded" for event in store.events_after(job.id)) == 1
    assert left(place) == []


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_supervisor import SETTINGS
from aslconvert.workers.database import Database
from aslconvert.workers.jobs import JobStore, Queue
from aslconvert.workers.storage import Blobs, LocalBlobs
from aslconvert.workers.worker import Worker
place = Path(sys.argv[2])
store = JobStore(Database(f"sqlite:///{place / 'jobs.db'}"))
blobs = Blobs(store.database, LocalBlobs(place / "blobs"))
Worker(store, blobs, queues=[Queue.CPU], folder=place / "work", settings=SETTINGS, lease_seconds=1.0, name="one").run()
"""


def test_memory_that_runs_out_is_tried_in_smaller_pieces_once(
    store: JobStore, blobs: Blobs, supervisor: Supervisor
) -> None:
    enough = submit(store, blobs, do="memory", needs=2)
    assert supervisor.see_through(claimed(store)) is Outcome.RETRIED
    assert supervisor.see_through(claimed(store)) is Outcome.SUCCEEDED
    assert (store.job(enough.id).result or {})["accumulate"] == 2
    scarce = submit(store, blobs, do="memory", needs=100)
    assert [supervisor.see_through(claimed(store)) for _ in range(2)] == [Outcome.RETRIED, Outcome.FAILED]
    assert problem_code(store, scarce) == "out_of_memory"


@pytest.mark.parametrize(
    ("options", "outcome", "code"),
    [
        ({"do": "fail", "kind": "user"}, Outcome.FAILED, "user_trouble"),
        ({"do": "fail", "kind": "internal"}, Outcome.FAILED, "internal_trouble"),
        ({"do": "fail", "kind": "infrastructure"}, Outcome.RETRIED, "infrastructure_trouble"),
        ({"do": "crash", "signal": 11}, Outcome.FAILED, "engine_crashed"),
        ({"do": "crash", "signal": 9}, Outcome.RETRIED, "engine_killed"),
        ({"do": "lie", "files": ["none.txt"]}, Outcome.FAILED, "bad_result"),
        ({"do": "lie", "files": ["link.txt"]}, Outcome.FAILED, "bad_result"),
        ({"do": "lie", "files": ["../in/model"]}, Outcome.FAILED, "bad_result"),
        ({"do": "lie", "files": ["report.json"]}, Outcome.FAILED, "bad_result"),
        ({"do": "lie", "files": ["report.json", "real.txt"]}, Outcome.FAILED, "bad_result"),
        ({"do": "trick", "how": "out"}, Outcome.FAILED, "bad_result"),
        ({"do": "trick", "how": "folder"}, Outcome.FAILED, "bad_result"),
        ({"do": "trick", "how": "pipe"}, Outcome.FAILED, "bad_result"),
        ({"do": "trick", "how": "endless"}, Outcome.FAILED, "bad_result"),
        ({"do": "babble", "much": "long"}, Outcome.FAILED, "bad_event"),
        ({"do": "babble", "much": "often"}, Outcome.FAILED, "bad_event"),
    ],
)
def test_errors_are_told_apart(
    store: JobStore,
    blobs: Blobs,
    supervisor: Supervisor,
    place: Path,
    options: dict[str, Any],
    outcome: Outcome,
    code: str,
) -> None:
    job = submit(store, blobs, **options)
    assert supervisor.see_through(claimed(store)) is outcome
    assert problem_code(store, job) == code
    assert left(place) == []


@pytest.mark.parametrize(
    ("limits", "size", "told"),
    [
        (Limits(folder_bytes=8 << 20), 20_000, "take more than 0.007812 GiB together"),
        (Limits(folder_files=500), 0, "more than 500 files"),
    ],
)
def test_a_job_whose_files_are_too_much_together_is_ended(
    store: JobStore, blobs: Blobs, place: Path, limits: Limits, size: int, told: str
) -> None:
    bounded = Supervisor(store, blobs, folder=place / "work", settings=replace(SETTINGS, limits=limits))
    job = submit(store, blobs, do="spill", size=size)
    assert bounded.see_through(claimed(store)) is Outcome.FAILED
    (attempt,) = store.attempts(job.id)
    assert attempt.problem is not None
    assert (attempt.problem.code, attempt.problem.kind) == ("files_limit", "user")
    assert told in attempt.problem.detail
    assert left(place) == []


def test_folders_however_deep_are_cleared_away(
    store: JobStore, blobs: Blobs, supervisor: Supervisor, place: Path
) -> None:
    job = submit(store, blobs, do="trick", how="deep")
    assert supervisor.see_through(claimed(store)) is Outcome.FAILED
    # It is over in no time, but who looks into the folder just then ends it.
    assert problem_code(store, job) in ("user_trouble", "files_limit")
    assert left(place) == []


@pytest.mark.parametrize("how", ["state", "states"])
def test_a_state_holds_no_files_of_the_machine(
    store: JobStore, blobs: Blobs, supervisor: Supervisor, place: Path, how: str
) -> None:
    secret = place / "secret.txt"
    secret.write_text("do not tell")
    job = submit(store, blobs, do="trick", how=how, secret=str(secret))
    assert supervisor.see_through(claimed(store)) is Outcome.RETRIED
    state = store.checkpoint(job.id)
    if state is not None:
        with blobs.store.open(state) as file:
            assert b"do not tell" not in file.read()
    assert secret.read_text() == "do not tell"


def test_a_state_that_is_gone_costs_time_and_no_job(
    store: JobStore, blobs: Blobs, supervisor: Supervisor, place: Path
) -> None:
    for damage in ("delete", "change"):
        job = submit(store, blobs, do="count", to=60)
        stop = threading.Event()
        with running(supervisor, claimed(store), stopping=stop.is_set) as ended:
            wait_for(lambda job=job: (store.job(job.id).progress or _None).done >= 5)
            stop.set()
            assert ended() is Outcome.GIVEN_BACK
        state = store.checkpoint(job.id)
        assert state is not None
        (path,) = (place / "blobs").rglob(state)
        path.chmod(0o600)
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes(b"x" + path.read_bytes()[1:])
        assert supervisor.see_through(claimed(store)) is Outcome.SUCCEEDED
        assert (store.job(job.id).result or {})["begun"] == 0


def test_a_service_that_is_stopped_as_a_whole_gives_its_job_back(
    store: JobStore, blobs: Blobs, supervisor: Supervisor
) -> None:
    """As systemd does: the signal reaches worker and sandbox at once."""
    job = submit(store, blobs, do="count", to=10_000)
    stop = threading.Event()
    with running(supervisor, claimed(store), stopping=stop.is_set) as ended:
        wait_for(lambda: (store.job(job.id).progress or _None).done >= 3)
        stop.set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(supervisor.folder).encode() in (path / "cmdline").read_bytes():
                    os.kill(int(path.name), signal.SIGTERM)
        assert ended() is Outcome.GIVEN_BACK
    assert store.job(job.id).state is State.QUEUED


def test_what_never_works_is_given_up(store: JobStore, blobs: Blobs, supervisor: Supervisor) -> None:
    job = submit(store, blobs, do="fail", kind="infrastructure")
    assert [supervisor.see_through(claimed(store)) for _ in range(3)] == [Outcome.RETRIED] * 2 + [Outcome.FAILED]
    assert store.job(job.id).state is State.FAILED
    assert store.claim([Queue.CPU], worker="four") is None


def test_whoever_lost_the_lease_writes_nothing(
    store: JobStore, blobs: Blobs, supervisor: Supervisor, place: Path
) -> None:
    job = submit(store, blobs, do="count", to=40)
    first = claimed(store, lease=0.5)
    with paused_heart(), running(supervisor, first) as ended:
        wait_for(lambda: bool(store.reap()))
        second = claimed(store, worker="two")
        assert ended() is Outcome.LOST
    assert supervisor.see_through(second) is Outcome.SUCCEEDED
    assert sum(event.type == "succeeded" for event in store.events_after(job.id)) == 1


def test_a_database_that_is_away_for_a_while_costs_nothing(
    store: JobStore, blobs: Blobs, supervisor: Supervisor, place: Path
) -> None:
    job = submit(store, blobs, do="count", to=20)
    with running(supervisor, claimed(store, lease=30.0)) as ended:
        wait_for(lambda: store.job(job.id).stage == "at work")
        with contextlib.closing(sqlite3.connect(place / "jobs.db", isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            time.sleep(2)
            holder.execute("ROLLBACK")
        assert ended() is Outcome.SUCCEEDED
    assert store.job(job.id).state is State.SUCCEEDED


def test_an_attempt_may_not_take_for_ever(store: JobStore, blobs: Blobs, place: Path) -> None:
    job = submit(store, blobs, do="hang")

    hasty = Supervisor(store, blobs, folder=place / "work", settings=replace(SETTINGS, time_limit=0.5, grace=0.5))
    assert hasty.see_through(claimed(store)) is Outcome.FAILED
    assert problem_code(store, job) == "time_limit"


def problem_code(store: JobStore, job: Job) -> str | None:
    (*_, last) = store.attempts(job.id)
    return None if last.problem is None else last.problem.code


class _None:
    done = -1


@contextlib.contextmanager
def running(
    supervisor: Supervisor, claim: Claim, *, stopping: Callable[[], bool] = lambda: False
) -> Iterator[Callable[[], Outcome]]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(supervisor.see_through(claim, stopping=stopping)))
    thread.start()

    def ended() -> Outcome:
        thread.join(60)
        assert not thread.is_alive()
        return outcomes[0]

    yield ended
    thread.join(60)


@contextlib.contextmanager
def paused_heart() -> Iterator[None]:
    """A supervisor whose heart does not beat, as if its machine stood still."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aslconvert.workers.heart.BEATS", 1e-3)
        patch.setattr("aslconvert.workers.heart.MOST_PAUSE", 1e3)
        yield


def wait_for(condition: Callable[[], bool], *, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
