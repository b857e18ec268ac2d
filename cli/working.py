"""What a worker's options mean: its queues, its device and how it runs jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace

from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.jobs import Queue
from aslconvert.workers.policy import SupervisorSettings
from aslconvert.workers.sandbox.check import granted
from aslconvert.workers.sandbox.child import LOOPBACK_HINT, NO_LOOPBACK
from aslconvert.workers.sandbox.confine import OWN_NETWORK
from aslconvert.workers.sandbox.limits import Limits

_DEVICE = re.compile(r"cuda:(\d{1,3})")


def require_own_network(settings: SupervisorSettings) -> None:
    """Whether jobs of several processes can have the network that these need, before any job is taken.

    Raises:
        InfrastructureError: ``no_loopback``.
    """
    if settings.processes > 1 and granted().get("network") != OWN_NETWORK:
        raise InfrastructureError("no_loopback", NO_LOOPBACK, hint=LOOPBACK_HINT)


def _gpus_of(device: str | None) -> list[int]:
    names = [] if device in (None, "cpu") else str(device).split(",")
    matches = [_DEVICE.fullmatch(name.strip()) for name in names]
    found = [int(match.group(1)) for match in matches if match is not None]
    if len(found) < len(names) or len(set(found)) < len(found):
        told = f"There is no device {device!r}."
        raise UserError("device", told, hint="Name cpu, a GPU such as cuda:0, or several: cuda:0,cuda:1.")
    return found


def settings_for(
    *,
    queues: Sequence[str] | None,
    device: str | None,
    engine: str | None,
    strict: bool,
    limits: Limits,
) -> tuple[tuple[Queue, ...], list[int], SupervisorSettings]:
    """The queues to work off, the numbers of the GPUs to heal on and the settings of the supervisor.

    Raises:
        UserError: ``queue``, ``device``.
    """
    gpus = _gpus_of(device)
    names = queues or (["cuda"] if gpus else ["cpu"])
    if unknown := [name for name in names if name not in set(Queue)]:
        raise UserError("queue", f"There is no queue {unknown[0]!r}.", hint=f"There are {', '.join(Queue)}.")
    threads = str(len(os.sched_getaffinity(0)))
    environment = {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    settings = SupervisorSettings(environment=environment, strict=strict, limits=limits, processes=max(len(gpus), 1))
    if engine is not None:
        # Another engine is found where this process finds its modules.
        environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        settings = replace(settings, engine=engine)
    return tuple(Queue(name) for name in names), gpus, settings
