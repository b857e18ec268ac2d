"""The tables of jobs; `database/migrations` builds the same."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnClause,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    literal_column,
)

from aslconvert.workers.database.base import Moment, metadata

ID: Final = String(36)
NAME: Final = String(200)
_JSON: Final = JSON(none_as_null=True)
_SECONDS: Final = Float(53)  # seconds since 1970 need more than single precision
QUEUED: Final[ColumnClause[str]] = literal_column("'queued'")

jobs = Table(
    "jobs",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("queue", String(32), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", NAME),
    Column("done", BigInteger),
    Column("total", BigInteger),
    Column("unit", String(32)),
    Column("payload", _JSON, nullable=False),
    Column("result", _JSON),
    Column("problem", _JSON),
    Column("attempts_made", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    # Set while a job waits for a later try; null means ready, which lets one index hold exactly what can be claimed.
    Column("available_at", _SECONDS),
    Column("available_epoch", String(64)),
    Column("cancel_requested", Boolean, nullable=False),
    Column("created", Moment, nullable=False),
    Column("started", Moment),
    Column("finished", Moment),
    Column("version", Integer, nullable=False),
    Column("event_count", Integer, nullable=False),
    # The token counts claims: it is the attempt's number, and fences off every earlier holder.
    Column("lease_token", Integer, nullable=False),
    Column("lease_owner", NAME),
    Column("lease_seconds", _SECONDS),
    Column("lease_expiry", _SECONDS),
    Column("lease_epoch", String(64)),
)

# The condition is spelled out in statements as well: neither database matches a partial index with a parameter.
READY: Final = (jobs.c.state == QUEUED) & jobs.c.available_at.is_(None)
WAITING: Final = jobs.c.available_at.is_not(None)
LEASED: Final = jobs.c.lease_expiry.is_not(None)
ENDED: Final = jobs.c.finished.is_not(None) & (jobs.c.state != literal_column("'expired'"))


def _partial(name: str, *columns: str, where: object) -> None:
    Index(name, *(jobs.c[column] for column in columns), sqlite_where=where, postgresql_where=where)


_partial("ix_jobs_ready", "queue", "priority", "id", where=READY)
_partial("ix_jobs_waiting", "available_at", where=WAITING)
_partial("ix_jobs_leased", "lease_expiry", where=LEASED)
_partial("ix_jobs_ended", "finished", where=ENDED)
Index("ix_jobs_tenant_id", jobs.c.tenant, jobs.c.id)
Index("ix_jobs_queue_state", jobs.c.queue, jobs.c.state)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("token", Integer, primary_key=True, autoincrement=False),
    Column("worker", NAME, nullable=False),
    Column("started", Moment, nullable=False),
    Column("ended", Moment),
    Column("outcome", String(16)),
    Column("problem", _JSON),
)

events = Table(
    "events",
    metadata,
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("type", String(32), nullable=False),
    Column("data", _JSON, nullable=False),
    Column("at", Moment, nullable=False),
)

# A row says that workers are to be told of a job: once it is queued, and until it is claimed.
outbox = Table(
    "outbox",
    metadata,
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("queue", String(32), nullable=False),
    Column("sent_at", _SECONDS),
    Column("sent_epoch", String(64)),
)
Index("ix_outbox_sent_at", outbox.c.sent_at)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("scope", NAME, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("payload_hash", String(64), nullable=False),
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created", Moment, nullable=False),
)
