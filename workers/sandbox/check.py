"""Finds out what the kernel grants here: the confinement of a job that does nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aslconvert.workers.sandbox.launch import Sandbox, Spec

SECONDS = 30.0


def granted() -> Mapping[str, Any]:
    """What the ``confined`` event of a job on this machine says; empty where no sandbox starts."""
    with tempfile.TemporaryDirectory(prefix="aslconvert-sandbox-") as folder:
        spec = Spec(kind="check", payload={}, folder=Path(folder) / "job", engine=f"{__name__}:nothing")
        with Sandbox(spec) as sandbox:
            return next((event.data for event in sandbox.events(seconds=SECONDS) if event.kind == "confined"), {})


def nothing(**_: Any) -> dict[str, Any]:
    """An engine without work."""
    return {}
