"""How endpoints describe their answers in the OpenAPI document, problems included."""

from __future__ import annotations

from typing import Any

from aslconvert.service.errors import BASE, PROBLEM_TYPE, ProblemDetails

_EXAMPLES = {
    400: ("bad_request", "user", "The request cannot be read."),
    401: ("unauthorized", "user", "This needs a valid API key."),
    403: ("forbidden", "user", "This needs a key with the scope 'write'."),
    404: ("job_not_found", "user", "There is no job 0192."),
    408: ("upload_stalled", "user", "No byte came for 30 s."),
    409: ("job_active", "user", "Job 0192 is running."),
    410: ("upload_expired", "user", "Upload 0192 has expired."),
    412: ("precondition_failed", "user", "It is not in the state that was expected."),
    413: ("too_large", "user", "A body has at most 1048576 bytes here."),
    415: ("unsupported_media_type", "user", "This takes JSON."),
    416: ("bad_range", "user", "The blob has 10 bytes."),
    422: ("invalid_request", "user", "body.kind: Input should be 'inspect', 'convert' or 'bench'."),
    423: ("upload_locked", "user", "Another request is at work on this upload."),
    429: ("too_many_requests", "user", "This key asks too often."),
    460: ("checksum_mismatch", "user", "The bytes do not have the checksum that was sent with them."),
    503: ("database_unavailable", "infrastructure", "The database does not answer."),
}
_TITLES = {
    400: "The request cannot be read",
    401: "No valid key",
    403: "The key may not do this, or a quota is used up",
    404: "No such thing for this tenant",
    408: "No byte came for too long",
    409: "Its state does not allow this",
    410: "It has expired",
    412: "A precondition failed",
    413: "Too large",
    415: "Another media type",
    416: "No such range",
    422: "Something asked for is wrong",
    423: "Another request is at work on it",
    429: "Too many requests; `Retry-After` says how long to wait",
    460: "The bytes have another checksum",
    503: "Disk, database or storage is away; `Retry-After` says how long to wait",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that an endpoint may answer, for its ``responses``; 503 is added to all."""
    return {status: _problem(status) for status in (*statuses, 503)}


def _problem(status: int) -> dict[str, Any]:
    code, kind, detail = _EXAMPLES[status]
    example = ProblemDetails(
        type=BASE + code.replace("_", "-"),
        title=code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        code=code,
        kind=kind,  # type: ignore[arg-type]  # from the table above
    )
    content = {"schema": _REFERENCE, "example": example.model_dump(mode="json", exclude_none=True)}
    return {"description": _TITLES[status], "content": {PROBLEM_TYPE: content}}


_REFERENCE = {"$ref": "#/components/schemas/ProblemDetails"}

AUTHORISED = (401, 403, 429)
CREATES = problems(400, 401, 403, 413, 415, 422, 429)
"""Of a POST with a JSON body and an Idempotency-Key."""
