"""A worker: claims jobs one after the other and sees each through; the embedded dispatch runs it in a thread."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.jobs import LEASE_SECONDS, Claim, JobStore, Queue
from aslconvert.workers.plain import remove_tree
from aslconvert.workers.policy import Outcome, SupervisorSettings
from aslconvert.workers.storage import Blobs
from aslconvert.workers.supervisor import Supervisor

POLL_SECONDS = 1.0
"""Between two looks at an empty queue, where nobody says that there is a job."""

REAP_SECONDS = 5.0
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)


class Worker:
    """Works off ``queues`` below ``folder``; one job at a time, so that latency is measured alone.

    ``name`` tells attempts of different workers apart. ``stop`` may be called from any thread, but not from a signal
    handler, which may have interrupted this very worker at its lock: the running job is given back with its state.

    Raises:
        UserError: ``worker_name``, when it is none, or one of the same name works in the folder.
    """

    def __init__(
        self,
        store: JobStore,
        blobs: Blobs,
        *,
        queues: Sequence[Queue],
        folder: Path,
        settings: SupervisorSettings | None = None,
        lease_seconds: float = LEASE_SECONDS,
        name: str | None = None,
    ) -> None:
        self.store = store
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        if not _NAME.fullmatch(self.name):
            raise UserError("worker_name", f"{self.name!r} is no name of a worker.", hint="Letters, digits, . _ and -.")
        self._draining = _drain_file(folder, self.name)
        self._queues = tuple(queues)
        self._lease = lease_seconds
        self._folder = folder
        self._stopping = threading.Event()
        self._something_new = threading.Event()
        self._supervisor = Supervisor(
            store, blobs, folder=folder / self.name, settings=settings or SupervisorSettings()
        )
        self._log = structlog.get_logger().bind(worker=self.name)

    def run(self) -> None:
        """Work until told to stop."""
        with self.serving():
            while not self._stopping.is_set():
                self._something_new.clear()
                claim = self._next()
                if claim is not None:
                    self.work_on(claim)
                elif not self._stopping.is_set():
                    self._something_new.wait(POLL_SECONDS)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Hold the worker's folder and take back jobs of silent workers, while somebody else says what to work on."""
        with self._own_folder():
            reaper = threading.Thread(target=self._reap, name=f"reaper of {self.name}", daemon=True)
            reaper.start()
            self._log.info("worker begins", queues=[queue.value for queue in self._queues])
            try:
                yield
            finally:
                self.stop()
                reaper.join()
                self._log.info("worker ends")

    def work_on(self, claim: Claim) -> Outcome:
        """See one claimed job through."""
        try:
            return self._supervisor.see_through(claim, stopping=self._stopping.is_set)
        except InfrastructureError as error:
            # Nothing can be stored now: the lease runs out, and whoever reaps it goes on.
            self._log.error("attempt abandoned", job=claim.job_id, code=error.code)
            return Outcome.LOST
        except Exception:  # noqa: BLE001  a defect costs one attempt, of a few, and not the worker
            self._log.exception("attempt abandoned", job=claim.job_id)
            return Outcome.LOST

    def claim_id(self, job_id: str) -> Claim | None:
        """The job of a message, unless it is held or done already."""
        return self.store.claim_id(job_id, worker=self.name, lease_seconds=self._lease)

    def wake(self) -> None:
        """There is a new job."""
        self._something_new.set()

    def stop(self) -> None:
        """Give back the running job and end."""
        self._stopping.set()
        self._something_new.set()

    def _next(self) -> Claim | None:
        if self._draining.exists():
            self._log.info("worker drains")
            self.stop()
            return None
        try:
            return self.store.claim(self._queues, worker=self.name, lease_seconds=self._lease)
        except Exception as error:  # noqa: BLE001  likewise
            self._log.warning("no claim", reason=type(error).__name__)
            return None

    def _reap(self) -> None:
        while not self._stopping.wait(REAP_SECONDS):
            try:
                for reaped in self.store.reap():
                    self._log.warning("lease expired", job=reaped.job_id, becomes=reaped.state.value)
                    self.wake()
            except Exception as error:  # noqa: BLE001  it must go on, whatever the database says today
                self._log.warning("no reaping", reason=type(error).__name__)

    @contextlib.contextmanager
    def _own_folder(self) -> Iterator[None]:
        """Holds the worker's folder by a lock that dies with the process; those of dead workers are removed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = self._folder / f"{self.name}.lock"
        with (self._folder / ".lock").open("ab") as door:
            # One at a time: a lock that was made and is not held yet looks like that of a dead worker.
            fcntl.flock(door, fcntl.LOCK_EX)
            for path in self._folder.glob("[!.]*.lock"):
                with path.open("ab") as file, contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_tree(path.with_suffix(""))
                    path.unlink(missing_ok=True)
            held = lock.open("ab")
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                held.close()
                raise UserError("worker_name", f"A worker called {self.name!r} works here already.") from error
        with held:
            # Whoever asked an earlier worker of this name did not mean this one.
            self._draining.unlink(missing_ok=True)
            yield
            remove_tree(self._folder / self.name)
            self._draining.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def is_worker_name(name: str) -> bool:
    """Whether a worker may be called so; nothing in such a name is special in a path or a pattern."""
    return _NAME.fullmatch(name) is not None


def ask_to_drain(folder: Path, name: str) -> None:
    """Let the worker of this name that looks into the database end after its job; it works below ``folder``."""
    _drain_file(folder, name).touch()


def is_at_work(folder: Path, name: str) -> bool:
    """Whether a worker of this name works below ``folder``, on this machine."""
    try:
        with (folder / f"{name}.lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _drain_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.drain"
