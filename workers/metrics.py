"""What a worker counts for Prometheus, and what the store knows of its queues."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import REGISTRY, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aslconvert.workers.errors import InfrastructureError
from aslconvert.workers.jobs import JobStore

ATTEMPTS = Counter("aslconvert_attempts_total", "Attempts that ended, by outcome and by the code of what went wrong.",
                   ["outcome", "code"])  # fmt: skip
AT_WORK = Gauge("aslconvert_attempts_at_work", "Attempts that this worker is seeing through.")
STAGE_SECONDS = Histogram(
    "aslconvert_stage_seconds", "Seconds that a stage of a job took.", ["stage"],
    buckets=(0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200),
)  # fmt: skip


class Names:
    """The names that a label takes: the first ``most`` that come, and "other" for those after them.

    Stages and codes are told by what runs in the sandbox, and every new one is kept by Prometheus for good.
    """

    def __init__(self, *, most: int = 64, chars: int = 48) -> None:
        self._most, self._chars = most, chars
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def bounded(self, name: str) -> str:
        """``name``, cut to its first word, or "other"."""
        word = name.split(" ", 1)[0][: self._chars]
        with self._lock:
            if word in self._known or len(self._known) < self._most:
                self._known.add(word)
                return word
        return "other"


STAGE_NAMES, CODE_NAMES = Names(), Names(most=256)


class Queues(Collector):
    """The state of every queue, read from the store when somebody asks; nothing while the database is away."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def describe(self) -> Iterable[Metric]:
        """Named without asking the database."""
        return self._families()

    def collect(self) -> Iterable[Metric]:
        """Jobs by queue and state, the age of the oldest ready one, the longest silence of a worker at work."""
        families = jobs, oldest, silence = self._families()
        try:
            figures = self._store.figures()
        except InfrastructureError:
            return []
        for one in figures:
            for state, count in one.states.items():
                jobs.add_metric([one.queue.value, state.value], count)
            oldest.add_metric([one.queue.value], one.oldest_ready_seconds)
            silence.add_metric([one.queue.value], one.longest_silence_seconds)
        return families

    def _families(self) -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily("aslconvert_jobs", "Jobs by queue and state.", labels=["queue", "state"]),
            GaugeMetricFamily(
                "aslconvert_queue_oldest_seconds", "Seconds since the oldest unclaimed job was submitted.",
                labels=["queue"],
            ),
            GaugeMetricFamily(
                "aslconvert_silence_seconds", "Longest time since the last heartbeat of a worker that holds a job.",
                labels=["queue"],
            ),
        )  # fmt: skip


def serve_metrics(store: JobStore, *, address: str, port: int) -> None:
    """Answer Prometheus at ``http://address:port/metrics``, in a thread.

    Raises:
        InfrastructureError: ``metrics_port``, when it is taken.
    """
    REGISTRY.register(Queues(store))
    try:
        start_http_server(port, addr=address)
    except OSError as error:
        told = f"No metrics can be served at {address}:{port}: {error.strerror}."
        raise InfrastructureError("metrics_port", told, hint="Take another --metrics-port.") from error
