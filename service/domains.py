"""The domains of the API: each brings a router, and may say what it stores for a tenant and what to do at start.

A domain is added by a line in `ROUTERS`; `HELD` and `SERVICES` are for those that need them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from fastapi import APIRouter
from sqlalchemy import Select

from aslconvert.service.context import Context
from aslconvert.service.datasets.endpoints import router as datasets
from aslconvert.service.dispatching import running as dispatch_running
from aslconvert.service.health.endpoints import router as health
from aslconvert.service.jobs.endpoints import router as jobs
from aslconvert.service.jobs.streams import router as streams
from aslconvert.service.keys.endpoints import router as keys
from aslconvert.service.models.endpoints import router as models
from aslconvert.service.reports.endpoints import router as reports
from aslconvert.service.uploads import held
from aslconvert.service.uploads.endpoints import router as uploads
from aslconvert.service.uploads.running import running as uploads_running
from aslconvert.service.webhooks.delivery import running as webhooks_running
from aslconvert.workers.database import Transaction

ROUTERS: tuple[APIRouter, ...] = (health, keys, uploads, models, datasets, jobs, streams, reports)

HELD: tuple[Callable[[str], Select[tuple[str]]], ...] = (held.of_models, held.of_datasets, held.of_previews)
"""For a tenant: a select of the hashes of blobs that the domain holds for it. They count towards its storage, once."""

RESERVED: tuple[Callable[[Transaction, str], int], ...] = (held.on_their_way,)
"""For a tenant: bytes that are on their way in, and count towards its storage already."""

OPEN: tuple[Callable[[Transaction, str], int], ...] = (held.under_way,)
"""For a tenant: things that come in and have a limit in their number."""

SERVICES: tuple[Callable[[Context], AbstractContextManager[object]], ...] = (
    uploads_running,
    dispatch_running,
    webhooks_running,
)
"""What runs beside the requests: entered when the app starts, left when it stops."""
