"""The domains of the API: each brings a router, and may say what it stores for a tenant and what to do at start.

A domain is added by a line in `ROUTERS`; `HELD` and `SERVICES` are for those that need them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from fastapi import APIRouter
from sqlalchemy import Select

from aslconvert.service.context import Context
from aslconvert.service.health.endpoints import router as health
from aslconvert.service.keys.endpoints import router as keys
from aslconvert.workers.database import Transaction

ROUTERS: tuple[APIRouter, ...] = (health, keys)

HELD: tuple[Callable[[str], Select[tuple[str]]], ...] = ()
"""For a tenant: a select of the hashes of blobs that the domain holds for it. They count towards its storage, once."""

RESERVED: tuple[Callable[[Transaction, str], int], ...] = ()
"""For a tenant: bytes that are on their way in, and count towards its storage already."""

SERVICES: tuple[Callable[[Context], AbstractContextManager[object]], ...] = ()
"""What runs beside the requests: entered when the app starts, left when it stops."""
