"""One attempt: prepares the sandbox, passes on what it tells, ends it where need be, and stores what became of it."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog

from aslconvert.workers import checkpoints
from aslconvert.workers.errors import (
    BlobNotFound,
    DamagedBlob,
    InfrastructureError,
    LeaseLost,
    Problem,
    WorkersError,
    problem,
    problem_of,
)
from aslconvert.workers.heart import Heart
from aslconvert.workers.jobs import Claim, JobStore, Kind, Progress, State
from aslconvert.workers.metrics import STAGE_NAMES, STAGE_SECONDS
from aslconvert.workers.plain import remove_tree
from aslconvert.workers.policy import Outcome, SupervisorSettings
from aslconvert.workers.results import Taken, take
from aslconvert.workers.sandbox.child import DONE, INTERRUPTED, NO_FOLDER
from aslconvert.workers.sandbox.launch import BadEvent, Event, Sandbox, Spec
from aslconvert.workers.storage import Blobs
from aslconvert.workers.tracing import TRACEPARENT, AttemptTrace

Value = TypeVar("Value")

OUT_OF_MEMORY = "out_of_memory"
MOST_EVENTS = 500
"""Events kept back while the database is away; of more, the oldest are dropped."""


MOST_TOLD = 10_000
"""Events of an attempt, progress aside; an engine that tells more than that is not ours."""


MOST_UNITS = 2**53
"""Of progress: what a database and a browser can count."""

CHUNK = 1 << 20

FILES_HINT = "Give it less data, or have the worker allow more (ASLCONVERT_JOB_BYTES, ASLCONVERT_JOB_FILES)."

_OUTCOMES = {State.FAILED: Outcome.FAILED, State.CANCELLED: Outcome.CANCELLED}
"""What became of a job whose attempt was to be tried again, where that is not the queue."""


class _Stopped(Exception):
    """The job is to end before its process has begun."""


class Attempt:
    """The work on one claim, below ``workspace``. ``reason`` is what it ended by, where that was a problem."""

    def __init__(
        self,
        store: JobStore,
        blobs: Blobs,
        *,
        claim: Claim,
        heart: Heart,
        workspace: Path,
        settings: SupervisorSettings,
        stopping: Callable[[], bool],
        trace: AttemptTrace,
    ) -> None:
        self._store, self._blobs, self._settings = store, blobs, settings
        self._claim, self._heart, self._workspace, self._stopping = claim, heart, workspace, stopping
        self._trace = trace
        # The job may write to its own folder alone: what the worker packs or describes must lie beside it.
        self._folder = workspace / "job"
        self._out = self._folder / "out"
        self._packed = workspace / "state.tar"
        self._waiting: list[Event] = []
        self._heard = 0
        self._failure: Event | None = None
        self._stamp: Any = ()
        self._stage = ("", time.monotonic())
        self.reason: Problem | None = None
        self._why = ""
        """What ended the process before its time: cancelled, stopping or time_limit."""
        self._excess = ""

    def run(self) -> Outcome:
        """See it through.

        Raises:
            LeaseLost: somebody else may hold the job.
        """
        try:
            return self._run()
        except LeaseLost:
            raise
        except WorkersError as error:
            return self._ended_by(problem_of(error))
        except BadEvent as error:
            return self._ended_by(problem("bad_event", f"The engine sent {error}.", kind="internal"))
        except OSError as error:
            told = f"The worker's folder cannot be used: {error.strerror}."
            return self._ended_by(problem("workspace_unusable", told, kind="infrastructure"))
        except Exception as error:  # noqa: BLE001  a defect of ours fails one job, and says so
            return self._ended_by(problem_of(error))

    def _run(self) -> Outcome:
        status = None
        with contextlib.suppress(_Stopped):
            spec = self._prepared()
            with Sandbox(spec) as sandbox:
                self._follow(sandbox)
                status = sandbox.wait(seconds=self._settings.grace)
            self._tell()
        return self._concluded(status)

    def _prepared(self) -> Spec:
        """Fetch the job's files and the state of an earlier attempt."""
        payload = {name: value for name, value in self._claim.job.payload.items() if name != TRACEPARENT}
        inputs = self._folder / "in"
        inputs.mkdir(parents=True)
        for name in ("model", "data"):
            if payload.get(name):
                self._fetch(str(payload[name]), inputs / name)
                payload[name] = name
        if self._halved():
            # From the start: a state of the healing that ran out of memory would run out of it again.
            options = dict(payload.get("options") or {})
            options["accumulate"] = 2 * max(int(options.get("accumulate") or 1), 1)
            payload["options"] = options
        elif (state := self._store.checkpoint(self._claim.job_id)) is not None:
            payload["resume"] = self._unpacked(state)
        # Nothing but a conversion heals.
        processes = self._settings.processes if self._claim.job.kind is Kind.CONVERT else 1
        told = {"ASLCONVERT_PROCESSES": str(processes)} if processes > 1 else {}
        return Spec(
            kind=self._claim.job.kind.value,
            payload=payload,
            folder=self._folder,
            engine=self._settings.engine,
            limits=self._settings.limits,
            environment={**self._settings.environment, **told},
            loopback=processes > 1,
            strict=self._settings.strict,
        )

    def _unpacked(self, state: str) -> bool:
        """Lay out what an earlier attempt left; without it, should it be lost, the job starts over."""
        try:
            self._fetch(state, self._packed)
            checkpoints.unpack(self._packed, self._out)
        except (BlobNotFound, DamagedBlob, ValueError):
            remove_tree(self._out)
            return False
        finally:
            self._packed.unlink(missing_ok=True)
        return True

    def _fetch(self, digest: str, path: Path) -> None:
        with self._blobs.store.open(digest) as source, path.open("wb") as target:
            while chunk := source.read(CHUNK):
                target.write(chunk)
                # A data set takes its time, and whoever cancels does not wait for it.
                self._why = self._reason_to_stop(0.0)
                if self._why:
                    raise _Stopped

    def _follow(self, sandbox: Sandbox) -> None:
        """Pass on what the process tells until it ends, or end it."""
        settings = self._settings
        started = saved = time.monotonic()
        deadline = math.inf
        while True:
            self._listen(sandbox)
            now = time.monotonic()
            self._tell()
            why, running = self._reason_to_stop(now - started), sandbox.running
            if why and not self._why:
                # Also of a process that has ended: whoever stops a service may signal all of it at once.
                self._why = why
                deadline = now + (settings.cancel_grace if why == "cancelled" else settings.grace)
                sandbox.stop()
            if not running:
                self._listen(sandbox)
                return
            self._excess = self._excess or sandbox.excess()
            if now >= deadline or self._excess:
                # A job that is over the limit on its files is not given time to write more.
                sandbox.kill()
            elif now - saved >= settings.checkpoint and not self._why:
                saved = now
                self._keep_state()

    def _listen(self, sandbox: Sandbox) -> None:
        """Take in what the process tells within one flush.

        Raises:
            BadEvent: it tells more than anybody would read, or no events.
        """
        for event in sandbox.events(seconds=self._settings.flush):
            self._waiting.append(event)
            self._heard += event.kind != "progress"
            if event.kind == "failed":
                self._failure = event
            elif event.kind == "stage":
                self._next_stage(str(event.data.get("stage", "")))
            if self._heard > MOST_TOLD or len(self._waiting) > MOST_TOLD:
                raise BadEvent(f"more than {MOST_TOLD} events")

    def _reason_to_stop(self, seconds: float) -> str:
        if self._heart.lost:
            raise LeaseLost(self._claim.job_id, self._claim.token)
        if self._heart.cancelled:
            return "cancelled"
        if self._stopping():
            return "stopping"
        return "time_limit" if seconds > self._settings.time_limit else ""

    def _tell(self) -> None:
        """Store the events that wait; while the database is away they wait on."""
        stage, progress, told = None, None, []
        for event in self._waiting:
            if event.kind == "stage":
                stage, progress = str(event.data.get("stage", "")), None
            elif event.kind == "progress":
                progress = _progress(event)
                told += [(event.kind, event.data)] if len(event.data) > 3 else []
            elif event.kind != "failed":
                told.append((event.kind, event.data))
        # Figures beside the progress, such as a loss, are of interest as they were last.
        figures = [data for kind, data in told if kind == "progress"][-1:]
        events = [(kind, data) for kind, data in told if kind != "progress"]
        events += [("figures", data) for data in figures]
        if not self._waiting:
            return
        try:
            asked = self._store.report(self._claim, stage=stage, progress=progress, events=events)
            self._heart.cancelled = self._heart.cancelled or asked
            self._waiting.clear()
        except LeaseLost:
            raise
        except InfrastructureError:
            del self._waiting[:-MOST_EVENTS]

    def _next_stage(self, name: str) -> None:
        before, since = self._stage
        now = time.monotonic()
        if before:
            # Variants have stages of their own, "heal x2.00": the first word tells enough.
            STAGE_SECONDS.labels(STAGE_NAMES.bounded(before)).observe(now - since)
        self._stage = (name, now)
        self._trace.stage(name)

    def _keep_state(self) -> None:
        """Store the engine's state, so that another worker can go on from it."""
        now = checkpoints.stamp(self._out)
        if not now or now == self._stamp:
            return
        try:
            if checkpoints.pack(self._out, self._packed):
                self._store.keep_checkpoint(self._claim, self._blobs.adopt(self._packed).hash)
                self._stamp = now
        except LeaseLost:
            raise
        except (WorkersError, OSError) as error:
            # The one before is still there, and the next may succeed.
            structlog.get_logger().warning("state not kept", job=self._claim.job_id, reason=type(error).__name__)
        finally:
            self._packed.unlink(missing_ok=True)

    def _concluded(self, status: int | None) -> Outcome:
        """What the exit status means for the job."""
        if status == DONE:
            return self._succeeded()
        if self._why == "cancelled" or self._heart.cancelled:
            self._keep_state()
            self._surely(lambda: self._store.cancelled(self._claim))
            return Outcome.CANCELLED
        if self._excess:
            return self._ended_by(problem("files_limit", self._excess, kind="user", hint=FILES_HINT))
        if self._why == "stopping" and not self._input_is_wrong():
            self._keep_state()
            self._surely(lambda: self._store.give_back(self._claim))
            return Outcome.GIVEN_BACK
        if self._why == "time_limit":
            told = f"The job took longer than {self._settings.time_limit:.0f} s."
            return self._ended_by(problem("time_limit", told, kind="user", hint="Give it a smaller budget."))
        if self._failure is not None:
            return self._ended_by(_problem_told(self._failure.data))
        if status == NO_FOLDER:
            return self._ended_by(problem("disk_full", "The worker's disk is full.", kind="infrastructure"))
        if status in (INTERRUPTED, -signal.SIGTERM):
            told = "The job's process was told to stop, and not by its worker."
            return self._ended_by(problem("engine_interrupted", told, kind="infrastructure"))
        if status == -signal.SIGKILL:
            told = "The job's process was killed from outside, as the kernel does where memory runs out."
            return self._ended_by(problem("engine_killed", told, kind="infrastructure"))
        return self._ended_by(
            problem("engine_crashed", f"The job's process ended with status {status}.", kind="internal")
        )

    def _input_is_wrong(self) -> bool:
        return self._failure is not None and self._failure.data.get("error_kind") == "user"

    def _succeeded(self) -> Outcome:
        try:
            taken: Taken = take(self._folder, self._blobs, most_bytes=self._settings.result_bytes)
        except LeaseLost:
            raise
        except WorkersError as error:
            return self._ended_by(problem_of(error))
        self._surely(lambda: self._store.succeed(self._claim, taken.result, blobs=taken.blobs))
        return Outcome.SUCCEEDED

    def _ended_by(self, reason: Problem) -> Outcome:
        """Try again what another try may mend, fail the rest."""
        self.reason = reason
        if self._heart.cancelled:
            self._surely(lambda: self._store.cancelled(self._claim))
            return Outcome.CANCELLED
        again = reason.kind == "infrastructure" and not (reason.code == OUT_OF_MEMORY and self._halved())
        if again:
            self._keep_state()
            delay = self._settings.retry_delay
            state = self._surely(lambda: self._store.retry_later(self._claim, reason, delay=delay))
            return _OUTCOMES.get(state, Outcome.RETRIED)
        self._surely(lambda: self._store.fail(self._claim, reason))
        return Outcome.FAILED

    def _halved(self) -> bool:
        """Whether an earlier attempt ran out of memory: this one computes in smaller pieces, and is the last."""
        earlier = self._surely(lambda: self._store.attempts(self._claim.job_id))
        return any(one.problem is not None and one.problem.code == OUT_OF_MEMORY for one in earlier)

    def _surely(self, write: Callable[[], Value]) -> Value:
        """Write an outcome, however long the database is away: once the lease is gone the store refuses it."""
        pause = 0.1
        while True:
            try:
                return write()
            except LeaseLost:
                raise
            except InfrastructureError:
                if self._heart.lost:
                    raise LeaseLost(self._claim.job_id, self._claim.token) from None
                time.sleep(pause)
                pause = min(2 * pause, 2.0)


def _progress(event: Event) -> Progress | None:
    done: Any = event.data.get("done")
    total: Any = event.data.get("total")
    if not all(isinstance(value, int | float) and abs(value) < MOST_UNITS for value in (done, total)):
        return None
    return Progress(int(done), int(total), str(event.data.get("unit", "")))


def _problem_told(data: Mapping[str, Any]) -> Problem:
    """The engine's own account of a failure, which is not trusted to be well formed."""
    kind, code = data.get("error_kind"), str(data.get("code", ""))
    try:
        return problem(
            code,
            str(data.get("message", "")),
            kind=kind if kind in ("user", "infrastructure", "internal") else "internal",
            hint=str(data.get("hint", "")),
        )
    except WorkersError:
        return problem("engine_error", str(data.get("message", "")), kind="internal")
