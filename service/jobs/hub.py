"""New events of all jobs that somebody watches: one task a process reads them, however many streams there are."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio.to_thread
import structlog
from fastapi.sse import format_sse_event
from sqlalchemy import or_, select

from aslconvert.workers.database import Transaction
from aslconvert.workers.jobs import FINISHED, Event, JobStore, State
from aslconvert.workers.jobs.tables import events, jobs

POLL_SECONDS = 0.25
BATCH = 500
"""Events of all jobs that one look reads."""

JOBS_AT_ONCE = 200
"""Jobs with news that one look reads."""

KEPT = 256
"""Events of a job that are kept for streams that are a little behind; others read the database."""

ENDED = FINISHED | {State.EXPIRED}


@dataclass
class Watched:
    """A job that streams watch: how many events it has, its state (None once it is deleted), the last of them."""

    job_id: str
    state: State | None
    count: int
    watchers: int = 0
    recent: deque[tuple[int, bytes]] = field(default_factory=lambda: deque(maxlen=KEPT))
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        """No event will follow."""
        return self.state is None or self.state in ENDED

    def after(self, number: int) -> list[tuple[int, bytes]] | None:
        """The encoded events after this one, or None where they are not kept any more."""
        if number >= self.count:
            return []
        if not self.recent or self.recent[0][0] > number + 1:
            return None
        return [entry for entry in self.recent if entry[0] > number]

    def tell(self) -> None:
        """Wake every stream."""
        self.changed.set()
        self.changed = asyncio.Event()


class Hub:
    """Runs while it is entered, in the loop that it is entered in; all but its reads is done in that loop."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._watched: dict[str, Watched] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tenants: Counter[str] = Counter()
        self.closing = False

    @property
    def streams(self) -> int:
        """How many there are."""
        return sum(watched.watchers for watched in self._watched.values())

    def streams_of(self, tenant: str) -> int:
        """How many a tenant has."""
        return self._tenants[tenant]

    def close(self) -> None:
        """End every stream: the process is about to stop, and clients come back to another."""
        self.closing = True
        for watched in self._watched.values():
            watched.tell()

    async def __aenter__(self) -> Hub:
        self._task = asyncio.create_task(self._run(), name="events")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @asynccontextmanager
    async def watching(self, job_id: str, *, tenant: str, state: State, count: int) -> AsyncIterator[Watched]:
        """The job as the hub sees it, from how it stood just now."""
        watched = self._watched.setdefault(job_id, Watched(job_id, state, count))
        watched.watchers += 1
        self._tenants[tenant] += 1
        self._wanted.set()
        try:
            yield watched
        finally:
            watched.watchers -= 1
            self._tenants[tenant] -= 1
            if not self._tenants[tenant]:
                del self._tenants[tenant]
            if not watched.watchers:
                del self._watched[job_id]

    async def earlier(self, job_id: str, number: int) -> list[tuple[int, bytes]]:
        """Events after this one, from the database."""

        def read(at: Transaction) -> Sequence[Event]:
            statement = (
                select(events)
                .where(events.c.job_id == job_id, events.c.number > number)
                .order_by(events.c.number)
                .limit(BATCH)
            )
            rows = at.connection.execute(statement)
            return [Event(row.job_id, row.number, row.type, row.data, row.at) for row in rows]

        found = await anyio.to_thread.run_sync(self._store.database.read, read)
        return [(event.number, encoded(event)) for event in found]

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            if not self._watched:
                await self._wanted.wait()
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001  the database may be back at the next look
                structlog.get_logger().warning("events wait", reason=type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> None:
        known = {watched.job_id: watched.count for watched in self._watched.values() if not watched.ended}
        if not known:
            return

        def read(at: Transaction) -> tuple[dict[str, tuple[State, int]], list[Event]]:
            rows = at.connection.execute(
                select(jobs.c.id, jobs.c.state, jobs.c.event_count).where(jobs.c.id.in_(known))
            )
            states = {row.id: (State(row.state), row.event_count) for row in rows}
            behind = [
                (events.c.job_id == job_id) & (events.c.number > known[job_id])
                for job_id, (_, count) in states.items()
                if count > known[job_id]
            ]
            if not behind:
                return states, []
            # SQLite refuses expressions that are deeper; any of the jobs may be the one whose turn is the next look.
            behind = random.sample(behind, min(len(behind), JOBS_AT_ONCE))
            statement = select(events).where(or_(*behind)).order_by(events.c.job_id, events.c.number).limit(BATCH)
            found = at.connection.execute(statement)
            return states, [Event(row.job_id, row.number, row.type, row.data, row.at) for row in found]

        states, found = await anyio.to_thread.run_sync(self._store.database.read, read)
        news: dict[str, list[Event]] = {}
        for event in found:
            news.setdefault(event.job_id, []).append(event)
        for job_id in known:
            watched = self._watched.get(job_id)
            if watched is None:
                continue
            state, count = states.get(job_id, (None, 0))
            for event in news.get(job_id, ()):
                if event.number > watched.count:
                    watched.recent.append((event.number, encoded(event)))
                    watched.count = event.number
            # The end is told when all before it have been read, or can be no more: they go when a job expires.
            if state is None or watched.count >= count or (state is State.EXPIRED and job_id not in news):
                watched.state = state
            if job_id in news or watched.ended:
                watched.tell()


def encoded(event: Event) -> bytes:
    """The event as a text/event-stream has it: its number, its kind, its data as JSON."""
    data = json.dumps(dict(event.data), separators=(",", ":"))
    return format_sse_event(data_str=data, event=event.type, id=str(event.number))
