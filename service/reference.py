"""Writes docs/api.md from the OpenAPI document: `python -m aslconvert.service.reference > docs/api.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from aslconvert.service.app import create_app
from aslconvert.service.settings import Settings

_OPENING = """\
# The REST API

<!-- Written by `python -m aslconvert.service.reference`; a test compares. -->

A service (`aslconvert serve`) answers this. Its own OpenAPI document is at `/openapi.json`.

- JSON names are snake_case, times RFC 3339 in UTC, sizes bytes, ids opaque.
- Every path but health asks for `Authorization: Bearer asl_...`. Keys have scopes: `read`, `write`, `admin` (keys of
  the own tenant), `operator` (keys of any tenant, the audit log); none includes another. What belongs to another tenant
  answers 404, as if it were not there.
- Errors are problem details (RFC 9457, `application/problem+json`): `code` is stable, `kind` tells who can mend it
  (`user`, `infrastructure`, `internal`), `entry` where in a request or a file it is. A failed job's `error` is one too.
- A POST that makes something takes an `Idempotency-Key`. For a day the same key with the same request gets the same
  answer, and makes nothing; with another request it gets 422. A repeated request that comes while the first is at work
  waits for it.
- Lists are pages: `limit` (at most 100), `cursor` (the `next` of the page before).
- 429 and 503 say in `Retry-After` how many seconds to wait. Quotas that are used up answer 403 with the codes
  `quota_storage`, `quota_jobs` and `quota_device_time`.
- Poll a job with `If-None-Match`: as long as nothing has changed the answer is an empty 304. Or follow
  `/v1/jobs/{job_id}/events`, and take it up again after a lost connection with `Last-Event-ID`.
- A webhook is a POST of `{"id", "event": "job.finished", "job"}` with `Aslconvert-Signature: t=<unix>,v1=<hex>`, where
  v1 is the HMAC-SHA256 of `<t>.<body>` under the secret that came with the job. Anything but 2xx is tried again for a
  day, with growing pauses; a message that comes twice has the same `id`.
"""


def reference() -> str:
    """The page, as Markdown."""
    document = create_app(Settings()).openapi()
    parts = [_OPENING, *_overview(document)]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method.upper(), path, operation)
    parts.append("## Objects\n")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += _object(name, schema)
    return "\n".join(parts).rstrip() + "\n"


def _overview(document: Mapping[str, Any]) -> Iterator[str]:
    yield "| | |\n|---|---|"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            first = str(operation.get("description", "")).split("\n")[0]
            yield f"| `{method.upper()} {path}` | {first} |"
    yield ""


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {method} {path}\n"
    if operation.get("description"):
        yield f"{operation['description']}\n"
    parameters = [one for one in operation.get("parameters", ()) if one["in"] != "path"]
    if parameters:
        yield "| parameter | in | type | |\n|---|---|---|---|"
        for one in parameters:
            need = "required. " if one.get("required") else ""
            yield f"| `{one['name']}` | {one['in']} | {_type(one['schema'])} | {need}{one.get('description', '')} |"
        yield ""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body: `{media}` {_type(content.get('schema', {}))}\n"
    told = []
    for status, answer in sorted(operation["responses"].items()):
        kinds = [_type(content.get("schema", {})) for content in answer.get("content", {}).values()]
        named = [kind for kind in kinds if kind and kind != "[ProblemDetails](#problemdetails)"]
        told.append(f"{status} {', '.join(named)}".strip())
    yield f"Answers: {'; '.join(told)}.\n"


def _object(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}\n"
    if schema.get("description"):
        yield f"{' '.join(schema['description'].split())}\n"
    if "enum" in schema:
        yield f"One of {', '.join(f'`{value}`' for value in schema['enum'])}.\n"
    if schema.get("properties"):
        required = set(schema.get("required", ()))
        yield "| field | type | |\n|---|---|---|"
        for field, inner in schema["properties"].items():
            default = f"default `{json.dumps(inner['default'])}`" if "default" in inner else ""
            note = "" if field in required or default else "optional"
            yield f"| `{field}` | {_type(inner)} | {default or note} |"
        yield ""


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    kind = str(schema.get("type", ""))
    if kind == "array":
        items = schema.get("items") or {}
        return f"list of {_type(items)}" if items else "list"
    bounds = [
        f"{sign} {schema[key]:,}" if isinstance(schema[key], int) else f"{sign} {schema[key]}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    form = schema.get("format")
    return " ".join([form if kind == "string" and form else kind, *bounds])


if __name__ == "__main__":
    sys.stdout.write(reference())
