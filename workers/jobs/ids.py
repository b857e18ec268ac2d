"""Ids of jobs: UUIDs of version 7 (RFC 9562), whose text sorts by the time they were made."""

from __future__ import annotations

import os
import threading
import time
import uuid

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """A new id, later in order than every one this process made before, even if its wall clock was set back."""
    global _last
    with _lock:
        # The 12 bits after the milliseconds hold their fraction (method 3 of RFC 9562, 6.2).
        ticks = (time.time_ns() * 4096) // 1_000_000
        _last = max(ticks, _last + 1)
        ticks = _last
    milliseconds, fraction = ticks >> 12, ticks & 0xFFF
    chance = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    value = (milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | chance
    return str(uuid.UUID(int=value))
