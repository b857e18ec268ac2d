"""Sees claimed jobs through to exactly one outcome each."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog

from aslconvert.workers.attempt import Attempt
from aslconvert.workers.errors import LeaseLost
from aslconvert.workers.heart import Heart
from aslconvert.workers.jobs import Claim, JobStore
from aslconvert.workers.metrics import AT_WORK, ATTEMPTS, CODE_NAMES
from aslconvert.workers.plain import remove_tree
from aslconvert.workers.policy import Outcome, SupervisorSettings
from aslconvert.workers.sandbox.launch import LOG
from aslconvert.workers.storage import Blobs
from aslconvert.workers.tracing import AttemptTrace


class Supervisor:
    """Runs claimed jobs one at a time below ``folder``, which is this worker's own."""

    def __init__(self, store: JobStore, blobs: Blobs, *, folder: Path, settings: SupervisorSettings) -> None:
        self.store = store
        self.blobs = blobs
        self.folder = folder
        self.settings = settings

    def see_through(self, claim: Claim, *, stopping: Callable[[], bool] = lambda: False) -> Outcome:
        """Run the job of ``claim`` and store how it ended. ``stopping``: the worker is to end, and leaves the job."""
        log = structlog.get_logger().bind(job=claim.job_id, attempt=claim.token, worker=claim.worker)
        workspace = self.folder / f"{claim.job_id}-{claim.token}"
        log.info("attempt begins", kind=claim.job.kind.value)
        outcome, code, begun = Outcome.LOST, "", time.monotonic()
        trace = AttemptTrace(claim)
        try:
            with AT_WORK.track_inprogress(), Heart(self.store, claim) as heart:
                attempt = Attempt(
                    self.store,
                    self.blobs,
                    claim=claim,
                    heart=heart,
                    workspace=workspace,
                    settings=self.settings,
                    stopping=stopping,
                    trace=trace,
                )
                outcome = attempt.run()
                code = "" if attempt.reason is None else attempt.reason.code
                if attempt.reason is not None and attempt.reason.kind == "internal":
                    # The workspace goes, and with it the only account of where it happened.
                    log.error("engine log", code=code, tail=_tail(workspace / LOG))
        except LeaseLost as error:
            outcome, code = Outcome.LOST, error.code
        finally:
            remove_tree(workspace)
            trace.ended(outcome, code)
        ATTEMPTS.labels(outcome.value, CODE_NAMES.bounded(code)).inc()
        log.info("attempt ends", outcome=outcome.value, code=code, seconds=round(time.monotonic() - begun, 3))
        return outcome


def _tail(path: Path, *, most: int = 4000) -> str:
    try:
        return path.read_bytes()[-most:].decode(errors="replace")
    except OSError:
        return ""
