"""How a job stands, for the many who ask at once: one look at the database serves all who asked before it began.

So nobody is told what was true before they asked, and 200 clients that poll a job cost it 20 looks a second at most.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass

import anyio.to_thread
from fastapi import Response

from aslconvert.service.context import Context
from aslconvert.service.jobs import repository
from aslconvert.service.jobs.telling import etag, told

APART_SECONDS = 0.05
"""From the beginning of one look at a job to that of the next: of a job that few ask about, nobody waits for it."""

_MOST_KEPT = 1000


@dataclass(frozen=True)
class Glance:
    """A job's ETag and its JSON."""

    tag: str
    body: bytes

    def answer(self, if_none_match: str | None) -> Response:
        """An empty 304 to whoever has it already."""
        headers = {"ETag": self.tag, "Cache-Control": "private, no-cache"}
        if if_none_match is not None and _matches(if_none_match, self.tag):
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type="application/json")


class Glances:
    """One a process, used in its event loop alone; only the looks themselves are taken in threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next: dict[tuple[str, str], asyncio.Task[Glance]] = {}
        self._began: OrderedDict[tuple[str, str], float] = OrderedDict()

    @classmethod
    def of(cls, context: Context) -> Glances:
        """Those of the process."""
        if cls not in context.parts:
            context.parts[cls] = cls(context)
        found: Glances = context.parts[cls]
        return found

    async def look(self, job_id: str, tenant: str) -> Glance:
        """The job as it stands at some time after this call.

        Raises:
            JobNotFound: the tenant has none of this id.
            InfrastructureError: the database cannot be read.
        """
        key = (job_id, tenant)
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.create_task(self._look(key))
            # An error is everybody's who waits, and nobody's where all have gone.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def _look(self, key: tuple[str, str]) -> Glance:
        wait = self._began.get(key, 0.0) + APART_SECONDS - time.monotonic()
        try:
            if wait > 0:
                await asyncio.sleep(wait)
        finally:
            # Whoever asks from here on waits for another look.
            del self._next[key]
        self._began[key] = time.monotonic()
        self._began.move_to_end(key)
        while len(self._began) > _MOST_KEPT:
            self._began.popitem(last=False)
        return await anyio.to_thread.run_sync(self._read, *key)

    def _read(self, job_id: str, tenant: str) -> Glance:
        known = self._context.database.read(lambda at: repository.find(at, job_id, tenant=tenant, place=True))
        return Glance(etag(known), told(self._context, known).model_dump_json().encode())


def _matches(asked: str, tag: str) -> bool:
    # Compared weakly, as RFC 9110 has it for this header.
    return asked.strip() == "*" or tag.removeprefix("W/") in [
        one.strip().removeprefix("W/") for one in asked.split(",")
    ]
