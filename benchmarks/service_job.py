"""The job of `benchmarks/service.py`: so much work on one core, told of four times a second as a conversion does."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CHUNK = b"x" * (1 << 20)


def run(*, kind: str, payload: Mapping[str, Any], folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """Hash ``heal_steps`` megabytes; the seconds that took are the forecast."""
    rounds = int(payload["options"]["heal_steps"])
    (folder / "out").mkdir(exist_ok=True)
    tell("stage", stage="hash")
    begun = told = time.monotonic()
    for number in range(rounds):
        hashlib.sha256(CHUNK).digest()
        if time.monotonic() - told >= 0.25:
            told = time.monotonic()
            tell("progress", done=number + 1, total=rounds, unit="MB")
    return {"files": [], "missed": None, "forecast": {"seconds": time.monotonic() - begun}}
