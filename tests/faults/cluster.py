"""A small deployment of real processes: Redis, Celery workers, a database, a folder of blobs, an API where asked."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "workers"))

import postgres
from api import Api
from wall import WallClock

from aslconvert.workers.database import Database, migrate
from aslconvert.workers.dispatch.celery import make_app, sender
from aslconvert.workers.dispatch.outbox import Outbox
from aslconvert.workers.jobs import JobStore
from aslconvert.workers.storage import Blobs, LocalBlobs

ENGINES = Path(__file__).resolve().parent.parent / "workers"
LEASE = 2.0


def redis_server() -> str | None:
    """Where Redis is installed."""
    return shutil.which("redis-server")


@dataclass
class Redis:
    """A server that keeps what it has acknowledged, through kills too."""

    folder: Path
    port: int
    addresses: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", *self.addresses, "--protected-mode", "no",
            "--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always",
            "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = redis.Redis(port=self.port)

        def answers() -> bool:
            with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                return bool(client.ping())
            return False

        wait_for(answers)
        client.close()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Reach:
    """How a worker's machine is entered, where its own files lie, and by which address it reaches the stores."""

    enter: Sequence[str]
    folder: Path
    database: str
    redis: str


@dataclass
class Cluster:
    """``place`` holds everything; ``workers`` by name. Whoever makes one closes it."""

    place: Path
    engine: str = "small_engine:run"
    names: tuple[str, ...] = ("one", "two")
    url: str = ""
    clock: WallClock | None = None
    server: postgres.Cluster | None = None
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    started: int = 0
    api: Api | None = None

    def __post_init__(self) -> None:
        self.url = self.url or f"sqlite:///{self.place / 'jobs.db'}"
        migrate(self.url)
        self.database = Database(self.url)
        self.store = JobStore(self.database)
        self.blobs = Blobs(self.database, LocalBlobs(self.place / "blobs"))
        self.redis = Redis(self.place / "redis", _free_port(), self.server.addresses if self.server else ())
        self.redis.start()
        self.app = make_app(self.redis.url)
        self.start_outbox()
        for name in self.names:
            self.start_worker(name)

    def start_worker(self, name: str) -> None:
        """Start a worker that takes the place of ``name``, under a name of its own: a dead one's leases are not its."""
        self.started += 1
        log = (self.place / f"{name}.log").open("ab")
        reach = self.reach(name)
        command = [
            *reach.enter, sys.executable, "-m", "aslconvert.cli.main", "worker", "--folder", str(reach.folder),
            "--database-url", reach.database, "--storage", str(self.place / "blobs"), "--redis", reach.redis,
            "--lease", str(LEASE), "--name", f"{name}-{self.started}",
        ]  # fmt: skip
        command += ["--engine", self.engine] if self.engine else []
        environment = {**os.environ, "PYTHONPATH": str(ENGINES), **(self.clock.environment if self.clock else {})}
        self.workers[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        log.close()

    def reach(self, name: str) -> Reach:
        """All workers are on this machine here."""
        return Reach((), self.place, self.url, self.redis.url)

    def start_outbox(self) -> None:
        """Tell the workers of jobs from here, as an API does."""
        self.outbox = Outbox(self.store, sender(self.app), pause=0.2, resend_after=5.0)
        self.outbox.__enter__()

    @contextlib.contextmanager
    def without_outbox(self) -> Iterator[None]:
        """Tell nobody meanwhile."""
        self.outbox.__exit__(None, None, None)
        try:
            yield
        finally:
            self.start_outbox()

    def running_api(self) -> Api:
        """The REST service with a model and data, started when it is first asked for."""
        if self.api is None:
            where = ["--database-url", self.url, "--storage", str(self.place / "blobs"), "--redis", self.redis.url]
            self.api = Api(self.place, _free_port(), where, self.clock.environment if self.clock else {})
            self.api.start()
            self.api.add_inputs(self.database, self.blobs)
        return self.api

    def stop_worker(self, name: str, how: signal.Signals) -> None:
        process = self.workers.pop(name)
        process.send_signal(how)
        process.wait(60)

    def sandboxes(self) -> list[int]:
        """Process groups of jobs at work."""
        found = []
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                words = (path / "cmdline").read_bytes().split(b"\0")
                if b"aslconvert.workers.sandbox.child" in words and str(self.place).encode() in words[-2]:
                    found.append(os.getpgid(int(path.name)))
        return sorted(set(found))

    def close(self) -> None:
        for name in list(self.workers):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop_worker(name, signal.SIGKILL)
        if self.api is not None:
            self.api.kill()
        self.outbox.__exit__(None, None, None)
        self.redis.kill()
        self.database.close()


@contextlib.contextmanager
def cluster(
    place: Path, *, engine: str = "small_engine:run", names: tuple[str, ...] = ("one", "two")
) -> Iterator[Cluster]:
    """A deployment on SQLite whose outbox runs here, as it does in the API."""
    with _running(Cluster(place, engine=engine, names=names, clock=WallClock(place / "clock"))) as made:
        yield made


@contextlib.contextmanager
def postgres_cluster(place: Path, binaries: Path) -> Iterator[Cluster]:
    """Likewise on PostgreSQL; the server goes by the same time of day as the workers."""
    clock = WallClock(place / "clock")
    # The clock's folder must be reached by the user that the server runs as.
    with (
        postgres.cluster(binaries, durable=True, environment=clock.environment) as server,
        _running(Cluster(place, url=server.url(), clock=clock, server=server)) as made,
    ):
        yield made


@contextlib.contextmanager
def _running(made: Cluster) -> Iterator[Cluster]:
    try:
        yield made
    finally:
        made.close()


def wait_for(condition: Callable[[], bool], *, seconds: float = 60.0, pause: float = 0.05) -> None:
    """Raises TimeoutError."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(pause)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
