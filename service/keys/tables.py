"""The tables of keys, tenants, usage and audit; `v0002_service` builds the same."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Float, Index, Integer, String, Table

from aslconvert.workers.database.base import Moment, metadata
from aslconvert.workers.jobs.tables import NAME

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("name", NAME, nullable=False),
    Column("scopes", JSON, nullable=False),
    # A keyed hash: who can read the database can neither use a key nor try guesses at it.
    Column("digest", String(64), nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment),
    Column("revoked", Moment),
    Column("last_used", Moment),
    Index("ix_api_keys_tenant_id", "tenant", "id"),
)

# A tenant has a row only where an operator gave it limits of its own, by the names of the settings.
tenants = Table(
    "tenants",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("quotas", JSON, nullable=False),
)

# What deleted jobs have used, by month ("2026-11"): deleting must not give time back.
device_usage = Table(
    "device_usage",
    metadata,
    Column("tenant", NAME, primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("seconds", Float(53), nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Moment, nullable=False),
    Column("key_id", String(32)),
    Column("tenant", NAME),
    Column("action", String(64), nullable=False),
    Column("target", NAME),
    Column("outcome", String(64), nullable=False),
    Column("address", String(64), nullable=False),
)

# Answers to requests with an Idempotency-Key, which commit with what the request made.
request_keys = Table(
    "request_keys",
    metadata,
    Column("scope", NAME, primary_key=True),
    Column("key_hash", String(64), primary_key=True),
    Column("payload_hash", String(64), nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", JSON(none_as_null=True)),
    Column("headers", JSON, nullable=False),
    Column("created", Moment, nullable=False, index=True),
)
