"""`python -m aslconvert.workers.sandbox.child SPEC`: confines itself, then lets the engine work on the job.

Only what the kernel needs is imported before; events go as lines of JSON to the descriptor that SPEC names.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aslconvert.workers.sandbox.confine import confine, die_with_parent
from aslconvert.workers.sandbox.limits import Limits

DONE, JOB_FAILED, ENGINE_BROKE = 0, 10, 11
"""Exit statuses: a result was written; the job has an error that was told; the engine itself went wrong, as told."""


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
    held = confine(writable=[folder], readable=readable, limits=Limits(**spec["limits"]))
    tell("confined", **held.to_json())
    if spec["strict"] and not held.whole:
        tell("failed", error_kind="infrastructure", code="sandbox_incomplete", message=str(held.missing), hint="")
        return ENGINE_BROKE
    os.chdir(folder)
    tempfile.tempdir = None
    module, _, function = str(spec["engine"]).partition(":")
    try:
        work = getattr(importlib.import_module(module), function)
        result = work(kind=spec["kind"], payload=spec["payload"], folder=folder, tell=tell)
    except MemoryError:
        tell("failed", error_kind="infrastructure", code="out_of_memory", message="Memory ran out.", hint="")
        return JOB_FAILED
    except Exception as error:  # noqa: BLE001  nothing may leave the sandbox but a told error
        tell(
            "failed",
            error_kind=getattr(error, "kind", "internal"),
            code=getattr(error, "code", "engine_error"),
            message=str(getattr(error, "message", f"{type(error).__name__}: {error}"))[:2000],
            hint=str(getattr(error, "hint", ""))[:2000],
        )
        if getattr(error, "kind", None) is None:
            sys.excepthook(*sys.exc_info())
            return ENGINE_BROKE
        return JOB_FAILED
    written = folder / "result.json.new"
    written.write_text(json.dumps(result), encoding="utf-8")
    written.rename(folder / "result.json")
    tell("finished")
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
