"""What a request handler gets: the stores, the settings, and what is said and counted beside the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

from aslconvert.service.security.secrets import Secrets
from aslconvert.service.settings import Settings
from aslconvert.workers.database import Database
from aslconvert.workers.jobs import JobStore
from aslconvert.workers.storage import Blobs


@dataclass(kw_only=True)
class Context:
    """One a process, made when the app starts; everything in it is safe for threads."""

    settings: Settings
    jobs: JobStore
    blobs: Blobs
    secrets: Secrets
    wake: Callable[[], None] = field(default=lambda: None)
    """There is a new job: look at once."""
    parts: dict[type[Any], Any] = field(default_factory=dict)
    """What domains keep beside the stores, by its class; their services put it here when the app starts."""

    @property
    def database(self) -> Database:
        """Where jobs, keys and records are; one call of `read` or `write` is one transaction."""
        return self.jobs.database


async def context_of(request: Request) -> Context:
    """The context of the app that answers; not in a thread, as there is nothing to wait for."""
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(context_of)]
"""A handler's parameter: ``context: Ctx``."""
