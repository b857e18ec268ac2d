"""Liveness, readiness and figures for Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import text

from aslconvert.service.context import Context, Ctx
from aslconvert.service.dispatching import Dispatch
from aslconvert.service.errors import NotFound
from aslconvert.service.health.metrics import Figures
from aslconvert.service.responses import problems
from aslconvert.service.version import VERSION
from aslconvert.workers.errors import InfrastructureError, problem_of

router = APIRouter(tags=["operation"])

_FIGURES: dict[int | str, dict[str, Any]] = {
    **problems(404),
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Figures."},
}

KEPT_SECONDS = 1.0
"""Readiness is looked at no more often than this, since anybody may ask."""


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str


class Readiness(BaseModel):
    """Whether the service can work; of a part that cannot, the code that says why."""

    status: Literal["ok", "failing"]
    checks: dict[str, str]


class Checks:
    """The last look, for everybody who asks within a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[float, dict[str, str]] = (float("-inf"), {})

    def of(self, context: Context) -> dict[str, str]:
        """How the parts are."""
        with self._lock:
            if time.monotonic() - self._last[0] > KEPT_SECONDS:
                found = {name: _tried(check, context) for name, check in _CHECKS.items()}
                self._last = (time.monotonic(), found)
            return self._last[1]


@router.get("/v1/health")
async def health() -> Health:
    """The process lives; nothing else is looked at."""
    return Health(status="ok", version=VERSION)


@router.get(
    "/v1/health/ready",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "A part that is needed is away."}},
)
def ready(context: Ctx) -> Response:
    """Whether database, storage and dispatch can be used now."""
    checks: Checks = context.parts.setdefault(Checks, Checks())
    found = checks.of(context)
    failing = any(state != "ok" for state in found.values())
    told = Readiness(status="failing" if failing else "ok", checks=found)
    return JSONResponse(told.model_dump(), status_code=503 if failing else 200)


@router.get("/metrics", response_class=Response, responses=_FIGURES)
def metrics(request: Request, context: Ctx) -> Response:
    """Figures for Prometheus, where the operator has switched them on."""
    if not context.settings.metrics:
        raise NotFound("page", "/metrics")
    figures: Figures = request.app.state.figures
    return Response(figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _database(context: Context) -> None:
    context.database.read(lambda at: at.connection.execute(text("SELECT 1")))


def _storage(context: Context) -> None:
    context.blobs.store.exists("0" * 64)


def _dispatch(context: Context) -> None:
    dispatch: Dispatch | None = context.parts.get(Dispatch)
    if dispatch is None or dispatch.alive is False:
        raise InfrastructureError("worker_ended", "The worker of this process has ended.")


def _tried(check: Callable[[Context], Any], context: Context) -> str:
    try:
        check(context)
    except Exception as error:  # noqa: BLE001  whatever it is, the part cannot be used
        return problem_of(error).code
    return "ok"


_CHECKS: dict[str, Callable[[Context], None]] = {"database": _database, "storage": _storage, "queue": _dispatch}
