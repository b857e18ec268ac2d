"""Keys are made, listed and revoked; the first one by whoever has the database at hand."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, insert, select, update

from aslconvert.service.errors import Forbidden, NotFound, ServiceError
from aslconvert.service.keys.tables import api_keys
from aslconvert.service.security.callers import HASH, Scope
from aslconvert.service.security.secrets import Secrets
from aslconvert.service.settings import Settings, master_secret
from aslconvert.workers.database import Transaction
from aslconvert.workers.jobs.records import is_name

FIRST_TENANT = "default"
FIRST_SCOPES = tuple(Scope)


@dataclass(frozen=True)
class NewKey:
    """A key as it is stored, and its text, which is shown this once."""

    row: Row[Any]
    text: str


def create(
    at: Transaction,
    hashes: Secrets,
    *,
    name: str,
    tenant: str,
    scopes: Sequence[Scope],
    expires_in: timedelta | None = None,
) -> NewKey:
    """Make a key of 256 random bits.

    Raises:
        ServiceError: ``bad_key_name``, ``bad_tenant``, ``bad_scopes``.
    """
    if not is_name(name):
        raise ServiceError("bad_key_name", "A key's name is a printable text of at most 200 characters.")
    if not is_name(tenant):
        raise ServiceError("bad_tenant", "A tenant is a printable text of at most 200 characters.")
    if not scopes:
        raise ServiceError("bad_scopes", "A key has at least one scope.")
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    row = at.connection.execute(
        insert(api_keys)
        .values(
            id=key_id,
            tenant=tenant,
            name=name,
            scopes=sorted({scope.value for scope in scopes}),
            digest=hashes.hexed(HASH, key_id, secret),
            created=at.wall,
            expires=None if expires_in is None else at.wall + expires_in,
        )
        .returning(api_keys)
    ).one()
    return NewKey(row, f"asl_{key_id}_{secret}")


def revoke(at: Transaction, key_id: str, *, tenant: str | None) -> None:
    """Revoke a key for good; one that is revoked stays so. ``tenant`` None is for operators.

    Raises:
        NotFound: there is none.
        Forbidden: it is an operator's, which those who keep a tenant's keys cannot take away.
    """
    mine = api_keys.c.id == key_id
    if tenant is not None:
        mine &= api_keys.c.tenant == tenant
    found = at.connection.execute(select(api_keys.c.scopes).where(mine)).one_or_none()
    if found is None:
        raise NotFound("key", key_id)
    if tenant is not None and Scope.OPERATOR in found.scopes:
        raise Forbidden(Scope.OPERATOR)
    at.connection.execute(update(api_keys).where(mine, api_keys.c.revoked.is_(None)).values(revoked=at.wall))


def note_uses(at: Transaction, seen: dict[str, datetime]) -> None:
    """Write down when keys were last used."""
    for key_id, when in sorted(seen.items()):
        at.connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used=when))


def create_first_key(settings: Settings, *, name: str = "first", tenant: str = FIRST_TENANT) -> str | None:
    """A key with every scope where there is no key at all, else None: what a new deployment begins with.

    Raises as `Places.opened` and `master_secret` do.
    """
    hashes = Secrets(master_secret(settings))

    def work(at: Transaction) -> str | None:
        if at.connection.execute(select(api_keys.c.id).limit(1)).one_or_none() is not None:
            return None
        return create(at, hashes, name=name, tenant=tenant, scopes=FIRST_SCOPES).text

    with settings.places.opened() as (store, _):
        return store.database.write(work)


def create_key(
    settings: Settings,
    *,
    name: str,
    tenant: str = FIRST_TENANT,
    scopes: Sequence[Scope] = FIRST_SCOPES,
    expires_in: timedelta | None = None,
) -> str:
    """A key made beside the service, by whoever has its folder; its text. Raises as `create_first_key` and `create`."""
    hashes = Secrets(master_secret(settings))
    with settings.places.opened() as (store, _):
        return store.database.write(
            lambda at: create(at, hashes, name=name, tenant=tenant, scopes=scopes, expires_in=expires_in).text
        )
