"""`/v1/keys`, `/v1/usage`, `/v1/tenants` and `/v1/audit`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Response
from fastapi.responses import JSONResponse
from sqlalchemy import Row, select

from aslconvert.service.context import Ctx
from aslconvert.service.errors import Forbidden, ServiceError
from aslconvert.service.idempotency import Answer, RequestKey, once
from aslconvert.service.keys import audit, service, usage
from aslconvert.service.keys.schemas import AuditEntry, Key, KeyAsked, KeyMade, LimitsAsked, Usage
from aslconvert.service.keys.tables import api_keys
from aslconvert.service.paging import Listed, Paged
from aslconvert.service.responses import CREATES, problems
from aslconvert.service.security.callers import Caller, Known, Operator, Reader, Scope, caller
from aslconvert.workers.database import Transaction

router = APIRouter()
KeyId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z._-]+$", description="A key's id.")]
Tenant = Annotated[
    str, Path(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$", description="A tenant's name.")
]
Keeper = Annotated[Caller, Depends(caller(Scope.ADMIN, Scope.OPERATOR))]


@router.post("/v1/keys", status_code=201, tags=["keys"], response_model=KeyMade, responses={**CREATES, **problems(403)})
def create_key(asked: KeyAsked, context: Ctx, caller: Keeper, request_key: RequestKey) -> Response:
    """Make a key for one's own tenant, or as an operator for any. Its text is told once, and to a repeated request.

    A key that expires makes none that lasts longer.
    """
    tenant = asked.tenant or caller.tenant
    if Scope.OPERATOR not in caller.scopes and (tenant != caller.tenant or Scope.OPERATOR in asked.scopes):
        raise Forbidden(Scope.OPERATOR)
    lasting = None if asked.expires_in_days is None else timedelta(days=asked.expires_in_days)
    if caller.expires is not None:
        # Else whoever finds a key that ends soon has one that never does.
        left = caller.expires - datetime.now(UTC)
        lasting = left if lasting is None else min(lasting, left)

    def work(at: Transaction) -> Answer:
        usage.require_key(at, context.settings, tenant)
        made = service.create(
            at, context.secrets, name=asked.name, tenant=tenant, scopes=asked.scopes, expires_in=lasting
        )
        audit.record(at, caller, "key.create", made.row.id)
        sealed = _sealed(context, caller, request_key, made.row.id, bytes.fromhex(made.text.rpartition("_")[2]))
        return Answer(201, {**told(made.row).model_dump(mode="json"), "sealed": sealed.hex()})

    answer = once(context, caller, request_key, operation="key.create", asked=asked.model_dump(mode="json"), work=work)
    body = dict(answer.body)
    secret = _sealed(context, caller, request_key, body["id"], bytes.fromhex(body.pop("sealed")))
    return JSONResponse({**body, "key": f"asl_{body['id']}_{secret.hex()}"}, status_code=answer.status)


def _sealed(context: Ctx, caller: Caller, request_key: str | None, key_id: str, secret: bytes) -> bytes:
    """The secret under a pad that nobody can make who has only the database; sealing it again opens it."""
    pad = context.secrets.keyed("seal", caller.key_id, request_key or "", key_id)
    return bytes(one ^ other for one, other in zip(secret, pad, strict=True))


@router.get("/v1/keys", tags=["keys"], responses=problems(401, 403, 422, 429))
def list_keys(context: Ctx, caller: Keeper, paging: Paged) -> Listed[Key]:
    """Keys of the own tenant, revoked ones too; an operator sees those of all."""
    after = paging.after

    def work(at: Transaction) -> list[Row[Any]]:
        statement = select(api_keys).order_by(api_keys.c.id).limit(paging.limit + 1)
        if Scope.OPERATOR not in caller.scopes:
            statement = statement.where(api_keys.c.tenant == caller.tenant)
        if after is not None:
            statement = statement.where(api_keys.c.id > after)
        return list(at.connection.execute(statement))

    shown, following = paging.page(context.database.read(work), lambda row: str(row.id))
    return Listed[Key](items=[told(row) for row in shown], next=following)


@router.delete("/v1/keys/{key_id}", status_code=204, tags=["keys"], responses=problems(401, 403, 404, 422, 429))
def revoke_key(key_id: KeyId, context: Ctx, caller: Keeper) -> None:
    """Revoke a key for good; other processes of the service heed it within a second."""
    tenant = None if Scope.OPERATOR in caller.scopes else caller.tenant

    def work(at: Transaction) -> None:
        service.revoke(at, key_id, tenant=tenant)
        audit.record(at, caller, "key.revoke", key_id)

    context.database.write(work)
    context.parts.setdefault(Known, Known()).forget()


@router.get("/v1/usage", tags=["keys"], responses=problems(401, 403, 429))
def tell_usage(context: Ctx, caller: Reader) -> Usage:
    """Limits of the own tenant, and what it uses."""

    return _usage(context, caller.tenant)


@router.get("/v1/tenants/{tenant:path}/usage", tags=["operation"], responses=problems(401, 403, 404, 422, 429))
def tell_usage_of(tenant: Tenant, context: Ctx, caller: Operator) -> Usage:
    """Limits of a tenant, and what it uses. A tenant is a name: one that nobody has used uses nothing."""
    return _usage(context, tenant)


@router.put(
    "/v1/tenants/{tenant:path}/limits", tags=["operation"], responses=problems(400, 401, 403, 404, 413, 422, 429)
)
def set_limits(tenant: Tenant, asked: LimitsAsked, context: Ctx, caller: Operator) -> Usage:
    """Give a tenant limits of its own, which hold from the next request on; what it has already stays."""

    def work(at: Transaction) -> None:
        usage.limit(at, tenant, asked.model_dump(exclude_none=True))
        audit.record(at, caller, "tenant.limits", tenant)

    context.database.write(work)
    return _usage(context, tenant)


def _usage(context: Ctx, tenant: str) -> Usage:
    def work(at: Transaction) -> Usage:
        limits = usage.quotas(at, context.settings, tenant)
        return Usage(tenant=tenant, quotas=limits, used=usage.used(at, tenant))

    return context.database.read(work)


@router.get("/v1/audit", tags=["operation"], responses=problems(401, 403, 422, 429))
def list_audit(context: Ctx, caller: Operator, paging: Paged) -> Listed[AuditEntry]:
    """Changes and denied requests of all tenants, newest first."""
    after = paging.after
    if after is not None and not (after.isascii() and after.isdecimal() and len(after) < 19):
        raise ServiceError("bad_cursor", "The cursor is not one that a page gave.")
    before = None if after is None else int(after)
    found = context.database.read(lambda at: audit.entries(at, before=before, limit=paging.limit + 1))
    shown, following = paging.page(found, lambda row: str(row.id))
    items = [
        AuditEntry(
            at=row.at,
            key=row.key_id,
            tenant=row.tenant,
            action=row.action,
            target=row.target,
            outcome=row.outcome,
            address=row.address,
        )
        for row in shown
    ]
    return Listed[AuditEntry](items=items, next=following)


def told(row: Row[Any]) -> Key:
    """A row as it is shown."""
    return Key(
        id=row.id,
        name=row.name,
        tenant=row.tenant,
        scopes=[Scope(scope) for scope in row.scopes],
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        last_used=row.last_used,
    )
