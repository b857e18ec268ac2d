"""Databases to test with: SQLite always, and a real PostgreSQL where its programs are installed."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgres import Cluster, cluster, programs

from aslconvert.workers.database import Database, migrate
from aslconvert.workers.jobs import JobStore

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A server whose database ``tables`` has the tables."""
    binaries = programs()
    if binaries is None:
        pytest.skip("NO POSTGRESQL HERE: nothing about it is tested; apt-get install postgresql")
    with cluster(binaries) as server:
        server.execute("CREATE DATABASE tables")
        migrate(server.url("tables"))
        yield server


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A SQLite file that has the tables."""
    path = tmp_path_factory.mktemp("migrated") / "jobs.db"
    migrate(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def quick() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested of files is not how fast a disk syncs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, quick: Path) -> str:
    """A fresh database with the tables."""
    if request.param == "postgres":
        server: Cluster = request.getfixturevalue("postgres")
        name = f"t{next(_numbers)}"
        server.execute(f"CREATE DATABASE {name} TEMPLATE tables")
        return server.url(name)
    path = quick / "jobs.db"
    path.write_bytes(request.getfixturevalue("migrated"))
    return f"sqlite:///{path}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder that holds a megabyte."""
    folder = Path(tempfile.mkdtemp(prefix="small"))
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("NO SMALL DISK HERE: mounting one needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()
