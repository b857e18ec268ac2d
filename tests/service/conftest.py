"""A live service for every test file, and fresh ones for those that change or kill it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "workers"))

from live import Live
from postgres import Cluster, cluster, programs


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested is not how fast a disk syncs."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def live(memory: Path) -> Iterator[Live]:
    """One service for all tests of a file."""
    folder = Path(tempfile.mkdtemp(dir=memory))
    service = Live(folder, requests_per_minute=1_000_000, running_jobs=10_000).start()
    yield service
    service.stop()
    service.close()


@pytest.fixture
def fresh(memory: Path) -> Iterator[Callable[..., Live]]:
    """Makes services that only one test uses."""
    made: list[Live] = []

    def make(**settings: Any) -> Live:
        made.append(Live(Path(tempfile.mkdtemp(dir=memory)), **settings).start())
        return made[-1]

    yield make
    for service in made:
        service.close()


@pytest.fixture
def client(live: Live) -> Iterator[httpx.Client]:
    """A client whose key may do everything."""
    with live.client() as opened:
        yield opened


@pytest.fixture
def postgres() -> Iterator[Cluster]:
    """A server of one test's own, which may stop it."""
    binaries = programs()
    if binaries is None:
        pytest.skip("NO POSTGRESQL HERE: nothing about it is tested; apt-get install postgresql")
    with cluster(binaries) as server:
        yield server
