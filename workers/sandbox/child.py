"""`python -m aslconvert.workers.sandbox.child SPEC`: confines itself, then lets the engine work on the job.

Only what the kernel needs is imported before; events go as lines of JSON to the descriptor that SPEC names. SIGTERM
is a KeyboardInterrupt to the engine, which then leaves a state to go on from.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from aslconvert.workers.sandbox.confine import OWN_NETWORK, confine, die_with_parent
from aslconvert.workers.sandbox.limits import Limits

DONE, JOB_FAILED, ENGINE_BROKE, INTERRUPTED, NO_FOLDER = 0, 10, 11, 12, 13
"""Exit statuses: a result was written; the job has an error that was told; the engine itself went wrong, as told; it
was asked to stop, and its state is left in the folder; the disk was full before it could begin."""

NO_LOOPBACK = "Healing in several processes needs a network namespace of the job's own, and the system grants none."
LOOPBACK_HINT = "Give the worker one device, or let it make namespaces (docs/operations.md: compose.sandbox.yml)."

MOST_TEXT = 2000
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = re.compile(r"not enough memory|can't allocate memory|bad_alloc|out of memory", re.IGNORECASE)


def main(given: list[str]) -> int:
    """Runs the job of the specification file ``given[0]``; the exit status says how it ended."""
    spec = json.loads(Path(given[0]).read_text(encoding="utf-8"))
    die_with_parent(int(spec["parent"]))
    folder = Path(spec["folder"])
    events = os.fdopen(os.dup(int(spec["events"])), "w", encoding="utf-8", buffering=1)
    os.close(int(spec["events"]))

    def tell(kind: str, **data: Any) -> None:
        events.write(json.dumps({"kind": kind, "at": time.time(), "data": data}) + "\n")

    readable = [Path(path) for path in spec["readable"]]
    gpu = bool(os.environ.get("CUDA_VISIBLE_DEVICES"))
    limits = Limits(**spec["limits"])
    held = confine(writable=[folder], readable=readable, limits=limits, gpu=gpu, loopback=spec["loopback"])
    tell("confined", **held.to_json())
    if spec["strict"] and not held.whole:
        tell("failed", error_kind="infrastructure", code="sandbox_incomplete", message=str(held.missing), hint="")
        return JOB_FAILED
    if spec["loopback"] and held.network != OWN_NETWORK:
        tell("failed", error_kind="infrastructure", code="no_loopback", message=NO_LOOPBACK, hint=LOOPBACK_HINT)
        return JOB_FAILED
    os.chdir(folder)
    tempfile.tempdir = None
    signal.signal(signal.SIGTERM, _interrupt)
    return _work(spec, folder, tell)


def _work(spec: dict[str, Any], folder: Path, tell: Callable[..., None]) -> int:
    module, _, function = str(spec["engine"]).partition(":")
    try:
        work = getattr(importlib.import_module(module), function)
        result = work(kind=spec["kind"], payload=spec["payload"], folder=folder, tell=tell)
        # What comes too late to be heeded must not spoil a result that is there.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        written = folder / "result.json.new"
        written.write_text(json.dumps(result), encoding="utf-8")
        written.rename(folder / "result.json")
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  nothing may leave the sandbox but a told error
        kind, code, message = _classified(error)
        tell(
            "failed",
            error_kind=kind,
            code=code,
            message=message[:MOST_TEXT],
            hint=str(getattr(error, "hint", ""))[:MOST_TEXT],
        )
        if kind == "internal":
            traceback.print_exception(error)
        return ENGINE_BROKE if kind == "internal" else JOB_FAILED
    tell("finished")
    return DONE


def _classified(error: Exception) -> tuple[str, str, str]:
    """Kind, code and message; errors of the engine and of the intake have their own."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return "infrastructure", "out_of_memory", "Memory ran out."
    if isinstance(error, OSError) and error.errno in _FULL:
        return "infrastructure", "disk_full", "The worker's disk is full."
    if (kind := getattr(error, "kind", None)) is None:
        # Of a foreign error only the class: its words may hold paths of this machine, and are in the log.
        return "internal", "engine_error", f"An unexpected {type(error).__name__} ended the job."
    return str(kind), str(getattr(error, "code", "engine_error")), str(getattr(error, "message", ""))


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Once: a second signal must not interrupt the writing of the checkpoint.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _exit(status: int) -> NoReturn:
    """End with this status, whatever can no longer be written to the log."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    try:
        _exit(main(sys.argv[1:]))
    except OSError as error:
        # Before there is anybody to tell: the folder cannot be used. The log is all there is.
        traceback.print_exc()
        _exit(NO_FOLDER if error.errno in _FULL else ENGINE_BROKE)
