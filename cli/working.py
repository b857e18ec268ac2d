"""What a worker's options mean: its queues, its device and how it runs jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from aslconvert.workers.errors import UserError
from aslconvert.workers.jobs import Queue
from aslconvert.workers.policy import SupervisorSettings
from aslconvert.workers.sandbox.limits import Limits

_DEVICE = re.compile(r"cpu|cuda:(\d{1,3})")


def settings_for(
    *,
    queues: Sequence[str] | None,
    device: str | None,
    engine: str | None,
    strict: bool,
    limits: Limits,
) -> tuple[tuple[Queue, ...], SupervisorSettings]:
    """The queues to work off and the settings of the supervisor.

    Raises:
        UserError: ``queue``, ``device``.
    """
    match = _DEVICE.fullmatch(device or "cpu")
    if match is None:
        raise UserError("device", f"There is no device {device!r}.", hint="Name cpu, or one GPU such as cuda:0.")
    on_gpu = match.group(1) is not None
    names = queues or (["cuda"] if on_gpu else ["cpu"])
    if unknown := [name for name in names if name not in set(Queue)]:
        raise UserError("queue", f"There is no queue {unknown[0]!r}.", hint=f"There are {', '.join(Queue)}.")
    threads = str(len(os.sched_getaffinity(0)))
    environment = {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": match.group(1) or ""}
    settings = SupervisorSettings(environment=environment, strict=strict, limits=limits)
    if engine is not None:
        # Another engine is found where this process finds its modules.
        environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        settings = replace(settings, engine=engine)
    return tuple(Queue(name) for name in names), settings
