"""The shortest way to the most asked question, how a job stands: around the framework, for callers who were just here.

Whatever is not a plain look at a job by a caller whom this process knows goes the usual way, to the same answers.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from aslconvert.service.context import Context
from aslconvert.service.jobs.glances import Glances
from aslconvert.service.security import callers

_PATH = re.compile(r"/v1/jobs/([0-9A-Za-z._-]{1,64})")


_ROUTE = SimpleNamespace(path="/v1/jobs/{job_id}")
"""What the answer is counted under, as the framework's route would be."""


class Polling:
    """Answers `GET /v1/jobs/{id}` where it can. Errors are raised, with a code, as the way around it raises them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        response = await _answered(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        await (self._app if response is None else response)(scope, receive, send)


async def _answered(scope: Scope) -> Response | None:
    match = _PATH.fullmatch(scope["path"])
    if match is None:
        return None
    request = Request(scope)
    context: Context = request.app.state.context
    scheme, key = get_authorization_scheme_param(request.headers.get("authorization"))
    caller = callers.seen(context, key) if scheme.lower() == "bearer" else None
    if caller is None or callers.Scope.READ not in caller.scopes:
        return None
    scope["route"] = _ROUTE
    callers.count(request, caller)
    glance = await Glances.of(context).look(match[1], caller.tenant)
    return glance.answer(request.headers.get("if-none-match"))
