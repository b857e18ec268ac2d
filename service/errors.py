"""Errors as problem details (RFC 9457): of these rooms, of the workers' and of the web framework, by one handler each.

ServiceError (a UserError of workers/errors.py)
├── Unauthorized          no key, or one that is not known, revoked or expired
├── Forbidden             the key has not the scope
├── NotFound              no such thing, or it belongs to another tenant: the same answer
├── Conflict              the thing is in a state that this cannot be done in
├── TooLarge              a body or a header has more bytes than are taken
├── QuotaExceeded         the tenant has used up what it may use
└── TooManyRequests       the key asks faster than it may
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from aslconvert.workers.errors import Kind, Problem, UserError, problem_of

PROBLEM_TYPE = "application/problem+json"
BASE = "https://aslconvert.dev/problems/"
_OLD_BASE = "urn:aslconvert:problem:"


class ProblemDetails(BaseModel):
    """What every error answers; ``code`` is stable, ``kind`` says who can mend it, ``entry`` where in a file it is."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    kind: Kind
    hint: str = ""
    entry: str | None = None
    instance: str | None = None


class ServiceError(UserError):
    """Base of what the service itself refuses; ``headers`` go out with the answer."""

    def __init__(self, code: str, message: str, *, hint: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code, message, hint=hint)
        self.headers = dict(headers or {})


class Unauthorized(ServiceError):
    """No key, or none that counts; the answer never says which."""

    status = 401

    def __init__(self) -> None:
        super().__init__(
            "unauthorized",
            "This needs a valid API key.",
            hint="Send `Authorization: Bearer asl_...`.",
            headers={"WWW-Authenticate": "Bearer"},
        )


class Forbidden(ServiceError):
    """The key is valid and may not do this."""

    status = 403

    def __init__(self, scope: str) -> None:
        super().__init__("forbidden", f"This needs a key with the scope {scope!r}.")


class NotFound(ServiceError):
    """No such thing for this tenant."""

    status = 404

    def __init__(self, what: str, identity: str) -> None:
        super().__init__(f"{what.replace(' ', '_')}_not_found", f"There is no {what} {identity[:64]}.")


class Conflict(ServiceError):
    """The thing is in a state that this cannot be done in."""

    status = 409


class TooLarge(ServiceError):
    """More bytes than are taken."""

    status = 413


class QuotaExceeded(ServiceError):
    """The tenant has used up ``quota``; what is freed or ends makes room."""

    status = 403

    def __init__(self, quota: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"quota_{quota}", message, hint=hint)


class TooManyRequests(ServiceError):
    """The key, or an address without one, asks faster than it may."""

    status = 429

    def __init__(self, wait: float, *, who: str = "key") -> None:
        seconds = max(1, math.ceil(wait))
        super().__init__(
            "too_many_requests", f"This {who} asks too often.", hint=f"Wait {seconds} s.",
            headers={"Retry-After": str(seconds)},
        )  # fmt: skip


def details_of(error: BaseException, *, instance: str | None = None) -> ProblemDetails:
    """The problem document of any exception, also of intake's Refused, which says the entry."""
    entry = getattr(error, "entry", None)
    return details(problem_of(error), entry=entry if isinstance(entry, str) else None, instance=instance)


def details(problem: Problem, *, entry: str | None = None, instance: str | None = None) -> ProblemDetails:
    """A problem of the workers' as the service tells it."""
    told = problem.model_dump()
    told["type"] = BASE + told["type"].removeprefix(_OLD_BASE).replace("_", "-")
    return ProblemDetails(**told, entry=entry, instance=instance)


def answer(details: ProblemDetails, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The problem as a response."""
    told = details.model_dump(mode="json", exclude_none=True)
    return JSONResponse(told, status_code=details.status, media_type=PROBLEM_TYPE, headers=dict(headers or {}))


def failure(request: Request, error: Exception) -> JSONResponse:
    """The answer to an error with a code; of one without, only the log tells more than its class."""
    told = details_of(error, instance=request.url.path)
    if told.kind != "user":
        structlog.get_logger().error("request failed", path=request.url.path, code=told.code, exc_info=error)
    if told.status in {401, 403}:
        _note_denial(request, told.code)
    headers: Mapping[str, str] = getattr(error, "headers", None) or {}
    if told.status == 503 and "Retry-After" not in headers:
        headers = {**headers, "Retry-After": "5"}
    return answer(told, headers)


def template_of(scope: Mapping[str, Any]) -> str | None:
    """The path of the route that answers, ids left open; None where there is none."""
    route = scope.get("route")
    found: str | None = getattr(route, "path_format", None) or getattr(route, "path", None)
    return found


def _note_denial(request: Request, code: str) -> None:
    path = template_of(request.scope) or request.url.path
    client = request.client.host if request.client is not None else ""
    request.app.state.denials.note(
        action=f"{request.method} {path}", outcome=code, caller=getattr(request.state, "caller", None), address=client
    )


_HTTP_CODES = {
    404: "no_such_path",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "too_large",
    415: "unsupported_media_type",
}


async def _http(request: Request, error: Exception) -> JSONResponse:
    status = getattr(error, "status_code", 500)
    told = ProblemDetails(
        type="", title="", status=status, detail=str(getattr(error, "detail", "")),
        code=_HTTP_CODES.get(status, "bad_request"), kind="user", instance=request.url.path,
    )  # fmt: skip
    told.type = BASE + told.code.replace("_", "-")
    told.title = told.code.replace("_", " ").capitalize()
    return answer(told, getattr(error, "headers", None))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    found: list[dict[str, Any]] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    place = ".".join(str(part) for part in found[0]["loc"]) if found else ""
    wrong = f"{place}: {found[0]['msg']}." if found else "The request cannot be read."
    hint = "See /openapi.json for what this takes."
    return answer(
        details_of(UserError("invalid_request", wrong, hint=hint), instance=request.url.path).model_copy(
            update={"entry": place or None}
        )
    )


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return failure(request, error)


def install(app: FastAPI) -> None:
    """Answer every error of the app as a problem."""
    from aslconvert.workers.errors import WorkersError
    from aslconvert.workers.intake.refusal import Refused

    app.add_exception_handler(WorkersError, _failed)
    app.add_exception_handler(Refused, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
