"""An engine for tests of the service: ``metric`` says what to do, ``seed`` how often; it writes a report like ours."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = {"model.pt2": b"portable " * 5000, "model.onnx": b"onnx", "report.html": b"<p>a report</p>"}


class Told(Exception):
    kind, code, message, hint = "user", "user_trouble", "as asked", "ask for something else"


def run(*, kind: str, payload: dict[str, Any], folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    options = dict(payload["options"])
    out = folder / "out"
    out.mkdir(exist_ok=True)
    what, often = options.get("metric", "write"), int(options.get("seed", 3))
    tell("stage", stage="at work")
    if what == "fail":
        raise Told("as asked")
    for number in range(often):
        if what == "count":
            time.sleep(0.05)
        tell("progress", done=number + 1, total=often, unit="numbers")
        tell("note", text=f"number {number}")
    if kind == "inspect":
        return {"files": [], "forecast": {"points": []}}
    for name, data in FILES.items():
        (out / name).write_bytes(data)
    (out / "report.json").write_text(json.dumps(report()))
    return {"files": [*FILES, "report.json"], "missed": {"code": "target", "message": "not quite"}}


def report() -> dict[str, Any]:
    def variant(name: str, speedup: float) -> dict[str, Any]:
        return {
            "id": name,
            "metric": {"name": "psnr", "value": 38.5, "ci": [36.0, 41.0]},
            "loss": {"value": 0.3, "ci": [0.2, 0.4]},
            "latency": {"torch": {"p50_ms": 20.0}, "onnxruntime": {"p50_ms": 10.0}},
            "speedup": {"torch": speedup / 2, "onnxruntime": speedup},
            "speedup_ci": {"onnxruntime": [speedup - 0.1, speedup + 0.1]},
        }

    artifacts = [
        {"path": name, "sha256": hashlib.sha256(FILES[name]).hexdigest(), "kind": name.rpartition(".")[2]}
        for name in ("model.pt2", "model.onnx")
    ]
    variants = [variant("x2.00", 2.0), variant("x3.00", 3.0)]
    return {"schema_version": 1, "chosen": "x3.00", "variants": variants, "artifacts": artifacts}
