"""Short work in a sandbox whose result is a document: vetting an upload, making a preview. No job, no attempts."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aslconvert.workers.errors import InfrastructureError, InternalError, UserError, WorkersError, problem
from aslconvert.workers.plain import NotPlain, read_plain, remove_tree
from aslconvert.workers.sandbox.child import DONE, NO_FOLDER
from aslconvert.workers.sandbox.launch import BadEvent, Event, Sandbox, Spec
from aslconvert.workers.sandbox.limits import Limits

MOST_EVENTS: Final = 1000
LOOK_SECONDS: Final = 0.25
_ERRORS: Final[Mapping[Any, type[WorkersError]]] = {"user": UserError, "infrastructure": InfrastructureError}


class Interrupted(Exception):
    """The caller wanted no more of it."""


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What is to be done: ``engine`` ("module:function") gets ``kind`` and ``payload``, may read ``readable``.

    ``seconds`` and ``limits`` are all that it may use; its result has at most ``most_bytes`` of JSON.
    """

    engine: str
    kind: str
    payload: Mapping[str, Any]
    readable: Sequence[Path] = ()
    limits: Limits = field(default_factory=Limits)
    seconds: float = 600.0
    most_bytes: int = 1 << 20
    strict: bool = False
    environment: Mapping[str, str] | None = None


def run_errand(errand: Errand, *, folder: Path, stopping: Callable[[], bool]) -> dict[str, Any]:
    """Do it in a process of its own below ``folder``, which is emptied before and after; what it gives, unchecked.

    The kernel ends that process with the thread that calls this.

    Raises:
        UserError: the work says that its input is wrong, it took longer than it may (``time_limit``), or it wrote
            more files than it may (``files_limit``).
        InfrastructureError: disk, memory, or a killed process.
        InternalError: it crashed, or its result cannot be read.
        Interrupted: ``stopping`` said so.
    """
    remove_tree(folder)
    try:
        folder.mkdir(parents=True)
        spec = Spec(
            kind=errand.kind,
            payload=errand.payload,
            folder=folder / "job",
            engine=errand.engine,
            limits=errand.limits,
            readable=errand.readable,
            environment=errand.environment,
            strict=errand.strict,
        )
        with Sandbox(spec) as sandbox:
            failure = _follow(sandbox, errand, stopping)
            status = sandbox.wait(seconds=LOOK_SECONDS)
        if status != DONE:
            raise _error(failure, status)
        return _result(spec.folder, errand.most_bytes)
    except BadEvent as error:
        raise InternalError("bad_event", f"The sandbox sent {error}.") from error
    except OSError as error:
        told = f"The folder of the sandbox cannot be used: {error.strerror}."
        raise InfrastructureError("workspace_unusable", told) from error
    finally:
        remove_tree(folder)


def _follow(sandbox: Sandbox, errand: Errand, stopping: Callable[[], bool]) -> Event | None:
    """Wait until it ends; the failure that it told of, if it did."""
    until = time.monotonic() + errand.seconds
    failure, heard = None, 0
    while True:
        running = sandbox.running
        for event in sandbox.events(seconds=LOOK_SECONDS):
            heard += 1
            failure = event if event.kind == "failed" else failure
            if heard > MOST_EVENTS:
                raise BadEvent(f"more than {MOST_EVENTS} events")
        if not running:
            return failure
        if stopping():
            raise Interrupted
        if excess := sandbox.excess():
            raise UserError("files_limit", excess, hint="Send a smaller file.")
        if time.monotonic() > until:
            raise UserError("time_limit", f"It took longer than {errand.seconds:.0f} s.")


def _error(failure: Event | None, status: int | None) -> WorkersError:
    if failure is not None:
        told = {name: str(failure.data.get(name, "")) for name in ("code", "message", "hint")}
        kind = _ERRORS.get(failure.data.get("error_kind"), InternalError)
        try:
            # What the sandbox says is not trusted to be well formed.
            problem(told["code"], told["message"], kind=kind.kind)
        except WorkersError:
            told["code"] = "engine_error"
        return kind(told["code"], told["message"], hint=told["hint"])
    if status == NO_FOLDER:
        return InfrastructureError("disk_full", "The disk is full.", hint="Free some space.")
    if status == -signal.SIGKILL:
        return InfrastructureError("engine_killed", "The process was killed, as the kernel does where memory runs out.")
    if status == -signal.SIGXCPU:
        return UserError("time_limit", "It took more processor time than it may.")
    return InternalError("engine_crashed", f"The process ended with status {status}.")


def _result(folder: Path, most: int) -> dict[str, Any]:
    try:
        found = json.loads(read_plain(folder, "result.json", most=most))
    except (NotPlain, ValueError, RecursionError) as error:
        raise InternalError("bad_result", "The sandbox gave no result that can be read.") from error
    if not isinstance(found, dict):
        raise InternalError("bad_result", "The result is no object.")
    return found
