"""`/v1/jobs/{id}/events`: what happened to a job, as a stream that can be taken up again, or as a list."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.sse import format_sse_event

from aslconvert.service.context import Context, Ctx
from aslconvert.service.errors import ServiceError, TooManyRequests, Unauthorized
from aslconvert.service.jobs import repository
from aslconvert.service.jobs.hub import Hub, Watched
from aslconvert.service.jobs.repository import Known
from aslconvert.service.jobs.schemas import EventTold, JobId
from aslconvert.service.paging import MOST, Listed
from aslconvert.service.responses import problems
from aslconvert.service.security.callers import Reader, identify
from aslconvert.workers.errors import InfrastructureError

router = APIRouter(tags=["jobs"])

MOST_STREAMS = 1000
"""Of one process: each holds a connection."""

MOST_STREAMS_EACH = 200
"""Of one tenant, so that it leaves some to others."""

EVENT_STREAM = "text/event-stream"
_COMMENT = b": still here\n\n"


def _number(text: str | None) -> int:
    if text is None or text == "":
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ServiceError("bad_event_id", "An event's id is its number.")
    return int(text)


async def _asked(
    after: Annotated[int | None, Query(ge=0, le=999_999_999, description="Events after this number.")] = None,
    cursor: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,9}$", description="Of a list: `next` of the page before.")
    ] = None,
    last_event_id: Annotated[str | None, Header(description="As `after`; browsers send it by themselves.")] = None,
) -> int:
    """The number of the last event that is known."""
    return max(after or 0, _number(cursor), _number(last_event_id))


@router.get(
    "/v1/jobs/{job_id}/events",
    response_model=Listed[EventTold],
    responses={
        **problems(401, 403, 404, 422, 429),
        200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}, "description": "A stream, or a list."},
    },
)
async def tell_events(
    job_id: JobId,
    request: Request,
    context: Ctx,
    caller: Reader,
    seen: Annotated[int, Depends(_asked)],
    limit: Annotated[int, Query(ge=1, description=f"Of a list; more than {MOST} is {MOST}.")] = MOST,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """A stream of events; with `Accept: application/json` a list.

    Of an event in the stream, `id` is its number, `event` its kind and `data` JSON. Comments keep the connection open.
    After the last event of an ended job comes one `end` with `{"state": ...}`, and the stream closes. A stream that
    closes without it goes on after `Last-Event-ID`.
    """
    known = await anyio.to_thread.run_sync(
        lambda: context.database.read(lambda at: repository.find(at, job_id, tenant=caller.tenant))
    )
    if "application/json" in accept and EVENT_STREAM not in accept:
        return await anyio.to_thread.run_sync(_listed, context, job_id, seen, min(limit, MOST))
    hub: Hub = request.app.state.hub
    if hub.streams >= MOST_STREAMS or hub.streams_of(caller.tenant) >= MOST_STREAMS_EACH:
        raise TooManyRequests(5)
    key = request.headers.get("authorization", "").partition(" ")[2]
    return StreamingResponse(
        _streamed(context, hub, known, seen, key),
        media_type=EVENT_STREAM,
        # A proxy that collects what it passes on would hold events back.
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


def _listed(context: Context, job_id: str, seen: int, limit: int) -> Response:
    found = context.jobs.events_after(job_id, seen, limit=limit + 1)
    items = [EventTold(number=one.number, kind=one.type, data=dict(one.data), at=one.at) for one in found[:limit]]
    following = str(items[-1].number) if len(found) > limit else None
    return JSONResponse(Listed[EventTold](items=items, next=following).model_dump(mode="json"))


async def _streamed(context: Context, hub: Hub, known: Known, seen: int, key: str) -> AsyncIterator[bytes]:
    every = context.settings.heartbeat_seconds
    job = known.job
    checked = time.monotonic()
    async with hub.watching(job.id, tenant=job.tenant, state=job.state, count=job.event_count) as watched:
        # At once, so that whoever waits knows that it listens.
        yield _COMMENT
        while not hub.closing:
            changed = watched.changed
            try:
                batch = await _next(hub, watched, seen)
            except InfrastructureError:
                return  # the client comes back, and is told then
            if batch:
                seen = batch[-1][0]
                yield b"".join(told for _, told in batch)
                continue
            if watched.ended:
                state = None if watched.state is None else watched.state.value
                yield format_sse_event(data_str=json.dumps({"state": state or "deleted"}), event="end")
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), every)
            if time.monotonic() - checked >= every:
                checked = time.monotonic()
                if not await anyio.to_thread.run_sync(_still_valid, context, key):
                    return
                yield _COMMENT


async def _next(hub: Hub, watched: Watched, seen: int) -> list[tuple[int, bytes]]:
    batch = watched.after(seen)
    # Those that expired are not to be had: then there is nothing more to tell.
    return await hub.earlier(watched.job_id, seen) if batch is None else batch


def _still_valid(context: Context, key: str) -> bool:
    try:
        identify(context, key, "")
    except Unauthorized:
        return False
    except InfrastructureError:
        return True
    return True
