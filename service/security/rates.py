"""How often a key or an address may ask: a bucket of tokens for each, in this process."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict

MOST_BUCKETS = 10_000


class Rates:
    """``per_minute`` requests on average, a tenth of that (at least ten) at once; safe for threads.

    Each process counts for itself: with N processes a key may ask N times as often.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_second = per_minute / 60
        self._burst = float(max(10, per_minute // 10))
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Take a token: 0, or the seconds until there is one."""
        return self._taken(key, 1)

    def wait(self, key: str) -> float:
        """Take nothing: 0, or the seconds until there is a token."""
        return self._taken(key, 0)

    def _taken(self, key: str, price: int) -> float:
        now = time.monotonic()
        with self._lock:
            level, then = self._buckets.pop(key, (self._burst, now))
            level = min(self._burst, level + (now - then) * self._per_second)
            allowed = level >= 1
            self._buckets[key] = (level - price if allowed else level, now)
            # The one that was quiet longest has been full for longest.
            while len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - level) / self._per_second


def neighbourhood(address: str) -> str:
    """What of an address one caller cannot change at will: all of IPv4's, the first half of IPv6's."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(found) if found.version == 4 else str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
