"""What a tenant may use and has used: storage, jobs at once, device time of the month."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import ColumnElement, delete, func, insert, or_, select, union

from aslconvert.service.errors import QuotaExceeded
from aslconvert.service.keys.tables import api_keys, device_usage, tenants
from aslconvert.service.settings import Settings
from aslconvert.workers.database import Transaction
from aslconvert.workers.database.base import insert_into
from aslconvert.workers.jobs import State
from aslconvert.workers.jobs.tables import attempts, jobs
from aslconvert.workers.storage.references import CHECKPOINT, JOB
from aslconvert.workers.storage.tables import blob_refs, blobs

ACTIVE = (State.QUEUED, State.RUNNING, State.CANCELLING)


class Quotas(BaseModel):
    """Limits of a tenant; requests are each key's."""

    storage_bytes: int
    running_jobs: int
    device_minutes: int
    open_uploads: int
    api_keys: int
    requests_per_minute: int


class Used(BaseModel):
    """What a tenant holds now, and the device time of its jobs in this calendar month (UTC)."""

    storage_bytes: int
    running_jobs: int
    device_minutes: float
    open_uploads: int
    api_keys: int


def quotas(at: Transaction, settings: Settings, tenant: str) -> Quotas:
    """The tenant's own limits where an operator set them, else the deployment's."""
    stored = at.connection.execute(select(tenants.c.quotas).where(tenants.c.name == tenant)).scalar_one_or_none()
    defaults = {name: getattr(settings, name) for name in Quotas.model_fields}
    # Rates are kept before anybody looks into the database: they are the same for all.
    return Quotas.model_validate({**defaults, **(stored or {}), "requests_per_minute": settings.requests_per_minute})


def used(at: Transaction, tenant: str) -> Used:
    """All figures, counted anew."""
    return Used(
        storage_bytes=storage_used(at, tenant),
        running_jobs=jobs_active(at, tenant),
        device_minutes=round(device_seconds(at, tenant) / 60, 3),
        open_uploads=uploads_open(at, tenant),
        api_keys=keys_usable(at, tenant),
    )


def limit(at: Transaction, tenant: str, own: dict[str, int]) -> None:
    """Give a tenant limits of its own by the names of the settings; those left out are the deployment's."""
    at.connection.execute(delete(tenants).where(tenants.c.name == tenant))
    if own:
        at.connection.execute(insert(tenants).values(name=tenant, quotas=own))


def storage_used(at: Transaction, tenant: str) -> int:
    """Bytes of what the tenant holds; what it holds in several places counts once."""
    # Here, since the list of domains has this one in it.
    from aslconvert.service.domains import HELD, RESERVED

    of_jobs = (
        select(blob_refs.c.hash)
        .join(jobs, jobs.c.id == blob_refs.c.holder_id)
        .where(jobs.c.tenant == tenant, blob_refs.c.holder_kind.in_([JOB, CHECKPOINT]))
    )
    held = union(of_jobs, *(select_of(tenant) for select_of in HELD)).subquery()
    found = at.connection.execute(
        select(func.coalesce(func.sum(blobs.c.size), 0)).where(blobs.c.hash.in_(select(held.c.hash)))
    )
    return int(found.scalar_one()) + sum(reserved(at, tenant) for reserved in RESERVED)


def jobs_active(at: Transaction, tenant: str) -> int:
    """Jobs that are queued or at work."""
    active = select(func.count()).select_from(jobs).where(jobs.c.tenant == tenant, jobs.c.state.in_(ACTIVE))
    return int(at.connection.execute(active).scalar_one())


def uploads_open(at: Transaction, tenant: str) -> int:
    """Uploads that are received or vetted."""
    # Here, since the list of domains has this one in it.
    from aslconvert.service.domains import OPEN

    return sum(count(at, tenant) for count in OPEN)


def keys_usable(at: Transaction, tenant: str) -> int:
    """Keys that are neither revoked nor expired."""
    usable = (
        select(func.count())
        .select_from(api_keys)
        .where(
            api_keys.c.tenant == tenant,
            api_keys.c.revoked.is_(None),
            or_(api_keys.c.expires.is_(None), api_keys.c.expires > at.wall),
        )
    )
    return int(at.connection.execute(usable).scalar_one())


def device_seconds(at: Transaction, tenant: str) -> float:
    """Seconds that attempts took which began this month, those of deleted jobs included."""
    since = _month_of(at.wall)
    rows = at.connection.execute(
        select(attempts.c.started, attempts.c.ended)
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .where(jobs.c.tenant == tenant, attempts.c.started >= since)
    )
    kept = at.connection.execute(
        select(device_usage.c.seconds).where(device_usage.c.tenant == tenant, device_usage.c.month == _name(since))
    ).scalar_one_or_none()
    return float(kept or 0.0) + sum(_seconds(row, at.wall) for row in rows)


def keep_device_time(at: Transaction, tenant: str, job_ids: ColumnElement[bool]) -> None:
    """Note what jobs used before their attempts are deleted with them; ``job_ids`` is a condition on attempts."""
    by_month: dict[str, float] = {}
    for row in at.connection.execute(select(attempts.c.started, attempts.c.ended).where(job_ids)):
        month = _name(row.started)
        by_month[month] = by_month.get(month, 0.0) + _seconds(row, at.wall)
    for month, seconds in by_month.items():
        statement = insert_into(at.connection, device_usage).values(tenant=tenant, month=month, seconds=seconds)
        more = device_usage.c.seconds + statement.excluded.seconds
        at.connection.execute(
            statement.on_conflict_do_update(
                index_elements=[device_usage.c.tenant, device_usage.c.month], set_={"seconds": more}
            )
        )


def require_storage(at: Transaction, settings: Settings, tenant: str, more: int) -> None:
    """Room for ``more`` bytes. Raises QuotaExceeded ``quota_storage``."""
    most, now = quotas(at, settings, tenant).storage_bytes, storage_used(at, tenant)
    if now + more > most:
        told = f"{more} bytes do not fit: {now} of {most} are used."
        raise QuotaExceeded("storage", told, hint="Delete models, data sets or jobs.")


def require_upload(at: Transaction, settings: Settings, tenant: str, size: int) -> None:
    """Room for one more upload of ``size`` bytes. Raises QuotaExceeded ``quota_uploads`` or ``quota_storage``."""
    most = quotas(at, settings, tenant).open_uploads
    if uploads_open(at, tenant) >= most:
        told = f"{most} uploads are on their way."
        raise QuotaExceeded("uploads", told, hint="End or delete one of them; those that are silent for a day expire.")
    require_storage(at, settings, tenant, size)


def require_key(at: Transaction, settings: Settings, tenant: str) -> None:
    """Room for one more key. Raises QuotaExceeded ``quota_keys``."""
    _one_by_one(at, f"key of {tenant}")
    most = quotas(at, settings, tenant).api_keys
    if keys_usable(at, tenant) >= most:
        raise QuotaExceeded("keys", f"The tenant has {most} keys that can be used.", hint="Revoke one of them.")


def require_job(at: Transaction, settings: Settings, tenant: str) -> None:
    """Room for one more job, which the transaction must then make. Raises QuotaExceeded, as `require_storage` does.

    Its codes are ``quota_jobs`` and ``quota_device_time``.
    """
    _one_by_one(at, f"job of {tenant}")
    limits = quotas(at, settings, tenant)
    if jobs_active(at, tenant) >= limits.running_jobs:
        told = f"{limits.running_jobs} jobs are queued or at work."
        raise QuotaExceeded("jobs", told, hint="Wait for one to end, or cancel it.")
    if device_seconds(at, tenant) >= 60 * limits.device_minutes:
        told = f"The {limits.device_minutes} minutes of device time of this month are used up."
        raise QuotaExceeded("device_time", told, hint="Wait for the next month, or ask the operator for more.")


def _one_by_one(at: Transaction, what: str) -> None:
    if at.connection.dialect.name != "sqlite":
        # As SQLite's writers are anyway: else two that each fit could fill a quota over.
        at.connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(what))))


def _seconds(row: Any, now: datetime) -> float:
    seconds: float = ((row.ended or now) - row.started).total_seconds()
    return max(0.0, seconds)


def _month_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _name(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m")
