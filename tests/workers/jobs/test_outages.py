"""A database that is locked, full, down or restarted: bounded waiting, and an error with a code."""

import contextlib
import socket
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Cluster, cluster, programs
from sqlalchemy.exc import DBAPIError

from aslconvert.workers.database import Database, downgrade, migrate
from aslconvert.workers.database.connect import CONNECT_SECONDS, KEPT, MORE
from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.jobs import JobStore, Kind, NewJob, Queue

NEW = NewJob(tenant="t", kind=Kind.CONVERT, queue=Queue.CPU, payload={"text": "x" * 5000})


@pytest.fixture
def path(tmp_path: Path, migrated: bytes) -> Path:
    path = tmp_path / "jobs.db"
    path.write_bytes(migrated)
    return path


def test_a_locked_database_is_waited_for_and_then_refused(path: Path) -> None:
    store = JobStore(Database(f"sqlite:///{path}", patience=0.5))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    with pytest.raises(InfrastructureError) as caught:
        store.submit(NEW)
    assert caught.value.code == "database_unavailable"
    assert time.monotonic() - begun < 30
    assert store.page().jobs == []  # readers are not locked out
    holder.execute("ROLLBACK")
    holder.close()
    store.submit(NEW)
    store.database.close()


def test_a_lock_that_is_released_in_time_is_not_noticed(path: Path) -> None:
    store = JobStore(Database(f"sqlite:///{path}", patience=60))
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=store.submit, args=[NEW])
    thread.start()
    assert store.page().jobs == []
    holder.execute("ROLLBACK")
    holder.close()
    thread.join()
    assert len(store.page().jobs) == 1
    store.database.close()


def test_a_full_disk_has_its_own_code(small_disk: Path, migrated: bytes) -> None:
    (small_disk / "jobs.db").write_bytes(migrated)
    store = JobStore(Database(f"sqlite:///{small_disk}/jobs.db", patience=0.5))
    with pytest.raises(InfrastructureError) as caught:
        deque(store.submit(NEW) for _ in range(1000))
    assert caught.value.code == "disk_full"
    assert 0 < len(store.page(limit=100).jobs) < 100
    store.database.close()


def test_a_database_without_tables_says_so(url: str) -> None:
    downgrade(url, "base")
    database = Database(url)
    with pytest.raises(InfrastructureError) as caught:
        JobStore(database).submit(NEW)
    assert caught.value.code == "database_not_migrated"
    database.close()


def test_a_statement_that_is_wrong_keeps_its_error(database: Database) -> None:
    with pytest.raises(DBAPIError) as caught:
        database.write(lambda at: at.connection.exec_driver_sql("SELECT nonsense"))
    assert caught.value.__cause__ is not caught.value


def test_urls_that_are_none(tmp_path: Path) -> None:
    for url in ("nonsense", "sqlite://", "sqlite:///:memory:", "mysql://x/y"):
        with pytest.raises(UserError) as caught:
            Database(url)
        assert caught.value.code == "bad_database_url"
    with pytest.raises(InfrastructureError) as refused:
        migrate(f"sqlite:///{tmp_path}/none/jobs.db", patience=0.1)
    assert refused.value.code == "database_unavailable"


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_does_not_hold_all_of_unicode_is_refused(postgres: Cluster, encoding: str) -> None:
    name = encoding.lower()
    postgres.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(UserError) as caught:
        migrate(postgres.url(name))
    assert caught.value.code == "database_encoding"
    assert encoding in caught.value.message
    # What the hint says to do, by its own words.
    postgres.execute(caught.value.hint.partition(": ")[2].removesuffix(".").replace("aslconvert", f"{name}_mended"))
    migrate(postgres.url(f"{name}_mended"))


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    binaries = programs()
    if binaries is None:
        pytest.skip("NO POSTGRESQL HERE: its restarts are not tested; apt-get install postgresql")
    with cluster(binaries) as started:
        migrate(started.url())
        yield started


def test_a_server_that_is_down_is_refused_and_one_that_comes_back_is_used(server: Cluster) -> None:
    hasty = JobStore(Database(server.url(), patience=0.5))
    patient = JobStore(Database(server.url(), patience=120))
    for store in (hasty, patient):
        store.submit(NEW)
    server.stop(mode="immediate")
    try:
        with pytest.raises(InfrastructureError) as caught:
            hasty.submit(NEW)
        assert caught.value.code == "database_unavailable"
        thread = threading.Thread(target=patient.submit, args=[NEW])
        thread.start()
    finally:
        server.start()
    thread.join()
    hasty.submit(NEW)
    assert len(hasty.page().jobs) == 4
    for store in (hasty, patient):
        store.database.close()


def test_a_server_that_goes_down_within_a_transaction(server: Cluster) -> None:
    # Longer than a server takes to start again, on a busy machine too.
    database = Database(server.url(), patience=10.0)
    store = JobStore(database)
    before = len(store.page(limit=100).jobs)
    turns = []

    def work(at: object) -> None:
        turns.append(at)
        if len(turns) == 1:
            server.stop(mode="immediate")
            server.start()
        JobStore(database)
        at.connection.exec_driver_sql("SELECT 1")  # type: ignore[attr-defined]  # a transaction

    database.write(work)  # it was rolled back for certain, so it is run again
    assert len(turns) == 2
    assert len(store.page(limit=100).jobs) == before
    database.close()


def test_as_many_threads_as_a_service_has_find_a_connection_and_one_too_many_is_told(path: Path) -> None:
    database = Database(f"sqlite:///{path}", patience=0.2)
    with contextlib.ExitStack() as held:
        for _ in range(KEPT + MORE - 1):
            held.enter_context(database.engine.connect())
        assert JobStore(database).page().jobs == []
        held.enter_context(database.engine.connect())
        with pytest.raises(InfrastructureError) as caught:
            JobStore(database).page()
        assert caught.value.code == "database_unavailable"
    assert JobStore(database).page().jobs == []
    database.close()


def test_a_server_that_takes_connections_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = Database(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/jobs", patience=0.1)
        begun = time.monotonic()
        with pytest.raises(InfrastructureError) as caught:
            database.read(lambda at: None)
        assert caught.value.code == "database_unavailable"
        assert time.monotonic() - begun < 4 * CONNECT_SECONDS
