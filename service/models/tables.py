"""The table of models; a tenant has the same bytes of the same architecture once."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, String, Table, UniqueConstraint

from aslconvert.workers.database.base import Moment, metadata
from aslconvert.workers.jobs.tables import ID, NAME

models = Table(
    "models",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("name", NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    # Empty and not null where there is none: a null is like no other, and would be stored twice.
    Column("architecture", String(200), nullable=False, server_default=""),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("facts", JSON(none_as_null=True), nullable=False),
    Column("created", Moment, nullable=False),
    UniqueConstraint("tenant", "sha256", "architecture"),
)
