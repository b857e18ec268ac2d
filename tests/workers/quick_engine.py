"""The engine with fewer samples of each latency, for tests of what a job gives rather than of how fast that runs."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aslconvert.workers import engine

ROUNDS = 3


def run(*, kind: str, payload: dict[str, Any], folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    def told(what: str, **data: Any) -> None:
        # Not before: the engine loads its parts once what was uploaded is rebuilt.
        if data.get("stage") == "open model and data":
            _quicken()
        tell(what, **data)

    return engine.run(kind=kind, payload=payload, folder=folder, tell=told)


def _quicken() -> None:
    parts = {name: importlib.import_module(f"aslconvert.converter.pipeline.{name}") for name in MODULES}
    for name, part in parts.items():
        for constant in MODULES[name]:
            if not hasattr(part, constant):
                raise AttributeError(f"{name} has no {constant} any more")
            setattr(part, constant, ROUNDS)
    parts["timing"].Timer.measure.__kwdefaults__["rounds"] = ROUNDS


MODULES = {
    "convert": ("QUICK_ROUNDS",),
    "plan_search": ("QUICK_ROUNDS",),
    "predict": ("QUICK_ROUNDS",),
    "style": ("ROUNDS",),
    "timing": ("FORM_ROUNDS",),
}
