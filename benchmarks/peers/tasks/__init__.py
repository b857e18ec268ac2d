"""The tasks: each a trained network with its own data, loaded by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from peers.tasks.task import Task

NAMES = ("demosaicker", "digits", "animals", "emoji", "segment", "detect")

MINOR = {"top1": 0.01, "miou": 0.01, "psnr": 1.0, "mean_f1": 0.01}
"""The loss of each metric that the summary counts as acceptable, in the metric's own unit."""


def load_task(name: str, *, quick: bool) -> Task:
    """The task ``name`` with its data written and its network trained; ``quick`` trains for few steps.

    Raises:
        InfrastructureError: ``packages_missing``, where a package that it needs cannot be had.
    """
    load: Callable[..., Task] = importlib.import_module(f"peers.tasks.{name}").load
    return load(quick=quick)


__all__ = ["MINOR", "NAMES", "Task", "load_task"]
