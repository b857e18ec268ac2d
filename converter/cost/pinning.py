"""Keeps the process on as many cores as it has threads while it is timed, where the system allows it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_PROCESSOR = 36
"""Field of /proc/thread-self/stat after the name's closing bracket: the core that the thread last ran on."""


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[bool]:
    """Pin every thread of this process to ``threads`` cores within; yields whether it is pinned.

    The threads that runtimes start within inherit the mask, and all of them get the former one back after. Without
    pinning a thread that the system moves to another core finds its caches cold, in some rounds and not in others.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    allowed = os.sched_getaffinity(0)
    if len(allowed) <= threads:
        yield len(allowed) == threads
        return
    before: dict[int, set[int]] = {}
    try:
        held = _pin(_cores(allowed, threads), before)
        yield held
    finally:
        for thread in _threads():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, before.get(thread, allowed))


def _pin(cores: set[int], before: dict[int, set[int]]) -> bool:
    """Whether this thread and all others that are still there now run on ``cores``; ``before`` gets their masks."""
    for thread in _threads():
        try:
            mask = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, cores)
        except ProcessLookupError:  # it has ended meanwhile
            continue
        except OSError:
            return False
        before[thread] = mask
    return os.sched_getaffinity(0) == cores


def _cores(allowed: set[int], count: int) -> set[int]:
    """``count`` of the ``allowed`` cores, from the one this thread runs on: the system chose that as a free one."""
    order = sorted(allowed)
    try:
        fields = Path("/proc/thread-self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        start = order.index(int(fields[_PROCESSOR]))
    except (OSError, ValueError, IndexError):
        start = 0
    return {order[(start + step) % len(order)] for step in range(count)}


def _threads() -> list[int]:
    try:
        return [int(entry.name) for entry in Path("/proc/self/task").iterdir()]
    except OSError:
        return [0]
