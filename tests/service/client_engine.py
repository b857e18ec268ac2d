"""An engine for tests of the commands: ``metric`` says how a job ends, ``seed`` how long it counts."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = {
    "fast.pt2": b"fast " * 100_000,
    "model.onnx": b"onnx " * 1000,
    "artifacts.json": b"{}",
    "report.html": b"<p>a report</p>",
    "report.json": json.dumps({"variants": [], "artifacts": []}).encode(),
}

FAILURES = {
    "refuse": ("user", "untraceable"),
    "nothing": ("user", "nothing_to_convert"),
    "unreachable": ("user", "does_not_pay"),
    "data": ("user", "data_nan"),
    "defect": ("internal", "some_defect"),
}


class Told(Exception):
    message, hint = "As asked.", "Ask for something else."

    def __init__(self, kind: str, code: str) -> None:
        super().__init__(code)
        self.kind, self.code = kind, code


def run(*, kind: str, payload: dict[str, Any], folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    options = dict(payload["options"])
    out = folder / "out"
    out.mkdir(exist_ok=True)
    what, often = options.get("metric", "fine"), int(options.get("seed", 3))
    tell("stage", stage="at work")
    if what in FAILURES:
        raise Told(*FAILURES[what])
    for number in range(often):
        time.sleep(0.05)
        tell("progress", done=number + 1, total=often, unit="numbers")
        tell("note", text=f"number {number}")
    if kind == "inspect":
        return {"files": [], "forecast": {"points": []}}
    for name, data in FILES.items():
        (out / name).write_bytes(data)
    missed = {"code": "speedup_not_reached", "message": "Not quite.", "hint": "Ask for less."}
    return {"files": list(FILES), "missed": missed if what == "missed" else None}
