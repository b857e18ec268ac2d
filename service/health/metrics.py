"""What the service counts for Prometheus: requests by route and outcome, streams, and the queues of the store."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aslconvert.service.errors import template_of
from aslconvert.workers.jobs import JobStore
from aslconvert.workers.metrics import Queues


class Figures:
    """The metrics of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self.requests = Counter("aslconvert_requests_total", "Answers.", labels, registry=self.registry)
        self.seconds = Histogram(
            "aslconvert_request_seconds", "Seconds until the head of an answer.", ["method", "route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10), registry=self.registry,
        )  # fmt: skip
        self.streams = Gauge("aslconvert_streams", "Streams of events that are open.", registry=self.registry)

    def watch(self, store: JobStore, hub: Any) -> None:
        """Tell of the store's queues and of the hub's streams too."""
        self.registry.register(Queues(store))
        self.streams.set_function(lambda: hub.streams)

    def text(self) -> bytes:
        """All of them, and those of the worker in this process."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)


class Counting:
    """Counts every request by the route's template, so that ids make no new series."""

    def __init__(self, app: ASGIApp, *, figures: Figures) -> None:
        self._app, self._figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = template_of(scope) or "none"
                method = scope["method"] if route != "none" else "any"
                self._figures.requests.labels(method, route, str(message["status"])).inc()
                self._figures.seconds.labels(method, route).observe(time.monotonic() - begun)
            await send(message)

        await self._app(scope, receive, noting)
