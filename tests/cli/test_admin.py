"""Backup, restore, checks and collection of real deployments, on SQLite and on PostgreSQL."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

sys.path.insert(0, str(Path(__file__).parent.parent / "workers"))

from postgres import Cluster, cluster, programs

from aslconvert.cli.main import main
from aslconvert.service.admin import rows
from aslconvert.service.keys.tables import audit
from aslconvert.service.settings import Settings
from aslconvert.service.uploads.shelf import DATASETS, MODELS
from aslconvert.service.uploads.tables import uploads
from aslconvert.workers.database import Database, downgrade
from aslconvert.workers.jobs import JobStore, Kind, NewJob, Queue, State
from aslconvert.workers.jobs.tables import jobs
from aslconvert.workers.storage import Blobs, hold
from aslconvert.workers.storage.tables import blob_refs, blobs

SECRET = "s" * 32
_numbers = itertools.count()


class Deployment:
    """A folder and a database, and the commands on them."""

    def __init__(self, folder: Path, url: str | None, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.url, self._capfd = folder, url, capfd
        self.settings = Settings(folder=folder, database_url=url)

    def admin(self, *words: str, code: int = 0) -> dict[str, Any]:
        """The answer of ``aslconvert admin``."""
        place = ["--folder", str(self.folder), *(["--database-url", self.url] if self.url else [])]
        found = main(["admin", *words, *place, "--json"])
        answer: dict[str, Any] = json.loads(self._capfd.readouterr().out)
        assert found == code, answer
        return answer

    def rows(self) -> dict[str, list[Any]]:
        """All that the database holds."""
        with self.settings.places.opened() as (store, _):
            return store.database.read(
                lambda at: {
                    table.name: sorted(map(repr, at.connection.execute(select(table)).all())) for table in rows.tables()
                }
            )

    def write(self, work: Callable[[Any], Any]) -> Any:
        with self.settings.places.opened() as (store, _):
            return store.database.write(work)

    def files(self) -> dict[str, str]:
        """Stored blobs, each with the hash of its bytes."""
        found = (self.folder / "blobs").glob("??/*")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    binaries = programs()
    if binaries is None:
        pytest.skip("NO POSTGRESQL HERE: nothing about it is tested; apt-get install postgresql")
    with cluster(binaries) as running:
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested is not how fast a disk syncs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def make(
    request: pytest.FixtureRequest,
    place: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], Deployment]:
    """Makes empty deployments."""
    monkeypatch.setenv("ASLCONVERT_SECRET", SECRET)

    def deployment(database: str = "sqlite") -> Deployment:
        number = next(_numbers)
        folder = place / f"deployment{number}"
        url = None
        if database == "postgres":
            url = _database(request.getfixturevalue("server"), f"admin{number}")
        return Deployment(folder, url, capfd)

    return deployment


def _database(server: Cluster, name: str) -> str:
    from sqlalchemy import create_engine

    engine = create_engine(server.url().replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.url(name)


def filled(deployment: Deployment) -> dict[str, str]:
    """A deployment with one of everything; ids and hashes by what they are."""
    with deployment.settings.places.opened() as (store, kept):
        model, data, result, state, loose = (
            kept.put(io.BytesIO(name * 1000)).hash for name in (b"model", b"data", b"result", b"state", b"loose")
        )

        def shelve(at: Any) -> tuple[str, str]:
            told: dict[str, Any] = {"tenant": "default", "size": 5000, "facts": {"inputs": 1}}
            one = MODELS.add(at, name="m", kind="pt2", sha256=model, **told)
            other = DATASETS.add(at, name="d", kind="npz", sha256=data, **told)
            at.connection.execute(
                insert(audit).values(at=at.wall, action="POST /v1/keys", outcome="ok", address="127.0.0.1")
            )
            for state, filename in (("receiving", "half.pt2"), ("done", "whole.pt2")):
                at.connection.execute(insert(uploads).values(
                    id=f"{state:-<36}", tenant="default", kind="model", filename=filename, metadata="", bytes=9,
                    place="0" * 32, state=state, attempts=0, created=at.wall, expires=at.wall,
                ))  # fmt: skip
            return one.id, other.id

        model_id, _ = store.database.write(shelve)
        ended = _submitted(store, model, data)
        store.succeed(_claimed(store), {"artifacts": [result]}, blobs=[result])
        running = _submitted(store, model, data)
        claim = _claimed(store)
        store.keep_checkpoint(claim, state)
        queued = _submitted(store, model, data)
    deployment.admin("create-key", "--name", "first")
    return {
        "model": model, "data": data, "result": result, "state": state, "loose": loose, "model_id": model_id,
        "ended": ended, "running": running, "queued": queued,
    }  # fmt: skip


def _submitted(store: JobStore, *hashes: str) -> str:
    new = NewJob(tenant="default", kind=Kind.CONVERT, queue=Queue.CPU, payload={"model": hashes[0]}, blobs=hashes)
    return store.submit(new).id


def _claimed(store: JobStore) -> Any:
    claim = store.claim([Queue.CPU], worker="w")
    assert claim is not None
    return claim


@pytest.mark.parametrize(
    ("source", "target"),
    [("sqlite", "sqlite"), ("sqlite", "postgres"), ("postgres", "postgres"), ("postgres", "sqlite")],
)
def test_a_backup_brings_every_row_and_blob_back(
    make: Callable[[str], Deployment], place: Path, source: str, target: str
) -> None:
    old, new = make(source), make(target)
    made = filled(old)
    told = old.admin("backup", str(place / "b"))
    held = {made[name] for name in ("model", "data", "result", "state")}
    assert (told["blobs"], told["blob_bytes"]) == (4, sum(1000 * len(n) for n in ("model", "data", "result", "state")))
    before = old.rows()
    restored = new.admin("restore", str(place / "b"))
    assert restored == {"rows": told["rows"], "blobs": 4, "blob_bytes": told["blob_bytes"], "keys_work": True}
    after = new.rows()
    # What nobody holds is left out, and the upload that was under way cannot end any more.
    assert [row for row in before.pop("blobs") if made["loose"] not in row] == after.pop("blobs")
    assert before.pop("uploads") == [row.replace("'expired'", "'receiving'") for row in after.pop("uploads")]
    assert before == after
    assert new.files() == {digest: digest for digest in held}
    assert new.admin("fsck", "--deep")["findings"] == []


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_jobs_go_on_after_a_restore(make: Callable[[str], Deployment], place: Path, database: str) -> None:
    old, new = make("sqlite"), make(database)
    made = filled(old)
    old.admin("backup", str(place / "b"))
    new.admin("restore", str(place / "b"))
    # The worker of then is silent for longer than its lease.
    new.write(lambda at: at.connection.execute(update(jobs).where(jobs.c.lease_expiry > 0).values(lease_expiry=1.0)))
    with new.settings.places.opened() as (store, _):
        assert [one.job_id for one in store.reap()] == [made["running"]]
        for expected in (made["running"], made["queued"]):
            claim = _claimed(store)
            assert claim.job_id == expected
            store.succeed(claim, {})
        assert store.checkpoint(made["running"]) in {None, made["state"]}
        assert store.job(made["ended"]).state is State.SUCCEEDED
        assert {job.state for job in store.page().jobs} == {State.SUCCEEDED}
        # A number that the database gives does not collide with those that were brought back.
        store.database.write(
            lambda at: at.connection.execute(insert(audit).values(at=at.wall, action="a", outcome="o", address=""))
        )


def test_a_restored_key_opens_the_service(make: Callable[[str], Deployment], place: Path) -> None:
    from aslconvert.service.keys.tables import api_keys
    from aslconvert.service.security.callers import HASH
    from aslconvert.service.security.secrets import Secrets

    old, new = make("sqlite"), make("sqlite")
    key = old.admin("create-key", "--name", "k")["key"]
    old.admin("backup", str(place / "b"))
    new.admin("restore", str(place / "b"))
    _, key_id, secret = key.split("_")
    digest = new.write(lambda at: at.connection.execute(select(api_keys.c.digest)).scalar_one())
    assert digest == Secrets(SECRET.encode()).hexed(HASH, key_id, secret)


def test_another_secret_is_told_before_anything_is_written(
    make: Callable[[str], Deployment], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make("sqlite"), make("sqlite")
    filled(old)
    old.admin("backup", str(place / "b"))
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in (place / "b").rglob("*") if path.is_file())
    monkeypatch.setenv("ASLCONVERT_SECRET", "t" * 32)
    assert new.admin("restore", str(place / "b"), code=2)["error"]["code"] == "other_secret"
    assert new.files() == {}
    assert new.admin("restore", str(place / "b"), "--other-secret")["keys_work"] is False


def _flip(path: Path) -> None:
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["rows/jobs.jsonl", "blobs.jsonl", "blob", "gone", "manifest.json", "half"])
def test_a_damaged_backup_is_refused_and_leaves_the_database_empty(
    make: Callable[[str], Deployment], place: Path, what: str
) -> None:
    old, new = make("sqlite"), make("sqlite")
    made = filled(old)
    folder = place / "b"
    old.admin("backup", str(folder))
    blob = folder / "blobs" / made["result"][:2] / made["result"]
    if what == "blob":
        _flip(blob)
    elif what == "gone":
        blob.unlink()
    elif what == "half":
        (folder / "manifest.json").unlink()
    elif what == "manifest.json":
        (folder / what).write_text("{}")
    else:
        _flip(folder / what)
    expected = "no_backup" if what == "half" else "backup_damaged"
    assert new.admin("restore", str(folder), code=2)["error"]["code"] == expected
    assert not any(new.rows().values())


def test_restoring_over_rows_or_into_a_full_folder_is_refused(make: Callable[[str], Deployment], place: Path) -> None:
    old = make("sqlite")
    filled(old)
    old.admin("backup", str(place / "b"))
    before = old.rows()
    assert old.admin("restore", str(place / "b"), code=2)["error"]["code"] == "not_empty"
    assert old.admin("backup", str(place / "b"), code=2)["error"]["code"] == "folder_not_empty"
    assert old.rows() == before


def test_a_backup_of_an_older_version_gets_todays_tables(make: Callable[[str], Deployment], place: Path) -> None:
    old, new = make("sqlite"), make("sqlite")
    folder = place / "b"
    old.admin("create-key", "--name", "k")
    old.admin("backup", str(folder))
    # As version 2 wrote it: without the tables of uploads.
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["revision"] = "0002"
    for name in ("uploads", "models", "datasets", "previews"):
        manifest["tables"].pop(name)
        (folder / "rows" / f"{name}.jsonl").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    new.admin("restore", str(folder))
    assert new.admin("migrate", "--check")["before"] == old.admin("migrate", "--check")["wanted"]
    assert new.rows() == old.rows()
    manifest["revision"] = "9999"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert make("sqlite").admin("restore", str(folder), code=2)["error"]["code"] == "backup_newer"


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_blobs_are_held_while_they_are_copied(
    make: Callable[[str], Deployment], place: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aslconvert.service.admin import backup as module
    from aslconvert.service.security.secrets import Secrets

    deployment = make(database)
    made = filled(deployment)
    with deployment.settings.places.opened() as (store, kept):
        copied = module._copy

        def slow(*arguments: Any) -> None:
            # The job is deleted and all that is not held collected, at the worst moment.
            if store.job(made["ended"]).state is State.SUCCEEDED:
                monkeypatch.setattr(module, "_copy", copied)
                store.delete(made["ended"])
                store.database.write(lambda at: at.connection.execute(update(blobs).values(touched_at=-1e9)))
                assert kept.collect() == [made["loose"]]
            copied(*arguments)

        monkeypatch.setattr(module, "_copy", slow)
        module.back_up(store.database, kept, Secrets(SECRET.encode()), place / "b")
        held = select(blob_refs).where(blob_refs.c.holder_kind == module.HOLDER)
        assert store.database.read(lambda at: at.connection.execute(held).all()) == []
        assert made["result"] in kept.collect()
    fresh = make("sqlite")
    fresh.admin("restore", str(place / "b"))
    assert made["result"] in fresh.files()


def test_fsck_finds_what_is_lost_and_what_is_too_much(make: Callable[[str], Deployment]) -> None:
    deployment = make("sqlite")
    made = filled(deployment)
    assert deployment.admin("fsck", "--deep")["findings"] == []
    folder = deployment.folder / "blobs"

    def path(name: str) -> Path:
        return folder / made[name][:2] / made[name]

    path("result").unlink()
    _flip(path("state"))
    path("data").chmod(0o600)
    path("data").write_bytes(b"short")
    stray = hashlib.sha256(b"stray").hexdigest()
    (folder / stray[:2]).mkdir(exist_ok=True)
    (folder / stray[:2] / stray).write_bytes(b"stray")
    (folder / stray[:2] / "notes.txt").write_bytes(b"not ours")
    deployment.write(lambda at: at.connection.execute(
        blob_refs.delete().where(blob_refs.c.holder_id == made["model_id"])
    ))  # fmt: skip
    deployment.write(lambda at: hold(at, "job", "no-such-job", [made["model"]]))
    shallow = {(one["kind"], one["blob"]) for one in deployment.admin("fsck", code=6)["findings"]}
    expected = {
        ("missing", made["result"]), ("size", made["data"]), ("stray", stray), ("unheld", made["model"]),
        ("orphan", made["model"]),
    }  # fmt: skip
    assert shallow == expected
    deep = {(one["kind"], one["blob"]) for one in deployment.admin("fsck", "--deep", code=6)["findings"]}
    assert deep == expected | {("damaged", made["state"])}
    assert deployment.admin("backup", str(deployment.folder / "b"), code=70)["error"]["code"] == "blob_lost"


@pytest.mark.parametrize("command", [["fsck"], ["gc"], ["backup", "bk"], ["drain", "one"], ["migrate", "--check"]])
def test_a_folder_without_a_deployment_is_no_healthy_one(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = main(["admin", *command, "--folder", "typo", "--json"])
    answer = json.loads(capfd.readouterr().out)
    if command[0] == "migrate":
        assert found == 6  # there is something to do: everything
        return
    assert (found, answer["error"]["code"]) == (2, "no_deployment")
    assert list(tmp_path.iterdir()) == []


def test_strays_alone_are_no_loss(make: Callable[[str], Deployment]) -> None:
    deployment = make("sqlite")
    filled(deployment)
    stray = hashlib.sha256(b"stray").hexdigest()
    (deployment.folder / "blobs" / stray[:2]).mkdir(exist_ok=True)
    (deployment.folder / "blobs" / stray[:2] / stray).write_bytes(b"stray")
    assert [one["kind"] for one in deployment.admin("fsck")["findings"]] == ["stray"]


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_gc_takes_what_nobody_holds_and_expires_old_jobs(make: Callable[[str], Deployment], database: str) -> None:
    deployment = make(database)
    made = filled(deployment)
    assert deployment.admin("gc")["blobs"] == 0
    past = datetime.now(UTC) - timedelta(days=40)
    deployment.write(lambda at: at.connection.execute(update(blobs).values(touched_at=-1e9)))
    deployment.write(
        lambda at: at.connection.execute(update(jobs).where(jobs.c.id == made["ended"]).values(finished=past))
    )
    deployment.write(lambda at: hold(at, "backup", "1-dead", [made["loose"]]))
    done = deployment.admin("gc")
    assert (done["jobs_expired"], done["backups_released"], done["blobs"]) == (1, 1, 2)
    assert set(deployment.files()) == {made["model"], made["data"], made["state"]}
    assert deployment.admin("fsck", "--deep")["findings"] == []


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_migrate_says_what_there_is_to_do(make: Callable[[str], Deployment], database: str) -> None:
    deployment = make(database)
    assert deployment.admin("migrate", "--check", code=6)["before"] is None
    wanted = deployment.admin("migrate")["wanted"]
    assert deployment.admin("migrate", "--check") == {"before": wanted, "wanted": wanted}
    downgrade(deployment.settings.places.database_url, "0001")
    assert deployment.admin("migrate", "--check", code=6)["before"] == "0001"


def test_a_table_that_nobody_keeps_stops_a_backup(make: Callable[[str], Deployment], place: Path) -> None:
    deployment = make("sqlite")
    filled(deployment)
    deployment.write(lambda at: at.connection.execute(text("CREATE TABLE news (id INTEGER)")))
    assert deployment.admin("backup", str(place / "b"), code=71)["error"]["code"] == "table_forgotten"
    assert not (place / "b" / "manifest.json").exists()


def test_a_full_backup_disk_is_said_and_releases_the_blobs(make: Callable[[str], Deployment], place: Path) -> None:
    deployment = make("sqlite")
    filled(deployment)
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("NO SMALL DISK HERE: mounting one needs root")
    import subprocess

    small = place / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("NO SMALL DISK HERE: it cannot be mounted")
    try:
        assert deployment.admin("backup", str(small / "b"), code=70)["error"]["code"] == "disk_full"
    finally:
        subprocess.run(["umount", str(small)], check=True)
    held = select(blob_refs.c.hash).where(blob_refs.c.holder_kind == "backup")
    assert deployment.write(lambda at: at.connection.execute(held).all()) == []


def test_the_stores_of_a_deployment_are_the_ones_that_commands_read(make: Callable[[str], Deployment]) -> None:
    deployment = make("sqlite")
    made = filled(deployment)
    database = Database(f"sqlite:///{deployment.folder / 'jobs.db'}")
    try:
        with deployment.settings.places.opened() as (_, kept):
            assert isinstance(kept, Blobs)
            assert {blob.hash for blob in kept.store.stored()} >= {made["model"], made["loose"]}
    finally:
        database.close()
