"""Liveness, readiness and figures for Prometheus."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from aslconvert.service.version import VERSION

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str


@router.get("/v1/health")
async def health() -> Health:
    """The process lives; nothing else is looked at."""
    return Health(status="ok", version=VERSION)
