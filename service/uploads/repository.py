"""Rows of uploads, each change on the condition that the state is the expected one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from aslconvert.service.errors import NotFound
from aslconvert.service.uploads.protocol import Metadata
from aslconvert.service.uploads.records import ENDED, Upload, UploadState, upload_of
from aslconvert.service.uploads.tables import uploads
from aslconvert.workers.database import Transaction

UNDER_WAY = (UploadState.RECEIVING, UploadState.VETTING)


def add(
    at: Transaction, upload_id: str, *, tenant: str, about: Metadata, size: int, place: str, lifetime: float
) -> Upload:
    """A new upload of ``size`` bytes that expires after ``lifetime`` seconds of silence."""
    row = at.connection.execute(
        insert(uploads)
        .values(
            id=upload_id,
            tenant=tenant,
            kind=about.kind,
            filename=about.filename,
            name=about.name,
            architecture=about.architecture,
            metadata=about.text,
            bytes=size,
            wanted_sha256=about.sha256,
            place=place,
            state=UploadState.RECEIVING,
            attempts=0,
            created=at.wall,
            expires=at.wall + timedelta(seconds=lifetime),
        )
        .returning(uploads)
    ).one()
    return upload_of(row)


def one_at_a_time(at: Transaction, tenant: str) -> None:
    """Let what counts against a tenant's quotas pass one by one: two that fit by themselves could fill one over."""
    if at.connection.dialect.name == "postgresql":
        # SQLite has one writer anyway.
        at.connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"upload of {tenant}"))))


def get(at: Transaction, upload_id: str, *, tenant: str | None) -> Upload:
    """One upload; ``tenant`` None is for the service itself. Raises NotFound."""
    found = select(uploads).where(uploads.c.id == upload_id)
    if tenant is not None:
        found = found.where(uploads.c.tenant == tenant)
    row = at.connection.execute(found).one_or_none()
    if row is None:
        raise NotFound("upload", upload_id)
    return upload_of(row)


def change(at: Transaction, upload_id: str, before: UploadState, /, **values: Any) -> bool:
    """Set values of an upload that is in this state; whether it was."""
    mine = (uploads.c.id == upload_id) & (uploads.c.state == before)
    return at.connection.execute(update(uploads).where(mine).values(**values)).rowcount > 0


def end(
    at: Transaction,
    upload_id: str,
    before: UploadState,
    after: UploadState,
    *,
    problem: Mapping[str, Any] | None = None,
    resource_id: str | None = None,
) -> bool:
    """Bring an upload to one of its last states; whether it was in the one before."""
    told = None if problem is None else dict(problem)
    return change(at, upload_id, before, state=after, finished=at.wall, problem=told, resource_id=resource_id)


def remove(at: Transaction, upload_id: str) -> None:
    """Forget an upload."""
    at.connection.execute(delete(uploads).where(uploads.c.id == upload_id))


def in_state(at: Transaction, state: UploadState, *, place: str) -> Sequence[Upload]:
    """Uploads of a staging folder that are in this state, oldest first."""
    found = select(uploads).where(uploads.c.state == state, uploads.c.place == place).order_by(uploads.c.id)
    return [upload_of(row) for row in at.connection.execute(found)]


def known(at: Transaction, *, place: str) -> set[str]:
    """Ids of uploads whose files belong in this staging folder."""
    found = select(uploads.c.id).where(uploads.c.place == place, uploads.c.state.in_(UNDER_WAY))
    return set(at.connection.execute(found).scalars())


def forget(at: Transaction, *, before: datetime) -> int:
    """Remove uploads that ended before a time; how many."""
    gone = delete(uploads).where(uploads.c.state.in_(ENDED), uploads.c.finished < before)
    return at.connection.execute(gone).rowcount


def count_under_way(at: Transaction, *, tenant: str) -> int:
    """Uploads of a tenant that are received or vetted."""
    found = select(func.count()).where(uploads.c.tenant == tenant, uploads.c.state.in_(UNDER_WAY))
    return int(at.connection.execute(found).scalar_one())


def reserved(at: Transaction, *, tenant: str) -> int:
    """Bytes that a tenant's uploads under way will have: they count against its quota before they come."""
    total = select(func.coalesce(func.sum(uploads.c.bytes), 0)).where(
        uploads.c.tenant == tenant, uploads.c.state.in_(UNDER_WAY)
    )
    return int(at.connection.execute(total).scalar_one())
