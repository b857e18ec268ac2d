"""Links that give one artifact for a while without a key: signed with the deployment's secret."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Query, Request
from fastapi.security.http import HTTPAuthorizationCredentials

from aslconvert.service.context import Context, Ctx
from aslconvert.service.errors import Unauthorized
from aslconvert.service.security.callers import Scope, bearer, caller
from aslconvert.service.security.secrets import same

_PURPOSE = "artifact-link"
_read = caller(Scope.READ)


def signature(context: Context, artifact_id: str, expires: int) -> str:
    """What proves that the service gave the link; ``expires`` in seconds since 1970."""
    return context.secrets.hexed(_PURPOSE, artifact_id, str(expires))


def tenant_or_link(
    artifact_id: str,
    request: Request,
    context: Ctx,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)] = None,
    expires: Annotated[int | None, Query(ge=0, le=1 << 40, description="Of a signed link.")] = None,
    signed: Annotated[str | None, Query(alias="signature", max_length=64, description="Of a signed link.")] = None,
) -> str | None:
    """The caller's tenant, or None for a link that is signed and has not expired. Raises Unauthorized, as `caller`."""
    if signed is None:
        return _read(request, context, given).tenant
    right = same(signed, signature(context, artifact_id, expires or 0))
    if not right or expires is None or expires <= datetime.now(UTC).timestamp():
        raise Unauthorized
    return None


Allowed = Annotated[str | None, Depends(tenant_or_link)]
