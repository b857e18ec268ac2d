"""The table of uploads; how many bytes one has received is the length of its file and stands nowhere else."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, String, Table, Text

from aslconvert.workers.database.base import Moment, metadata
from aslconvert.workers.jobs.tables import ID, NAME

uploads = Table(
    "uploads",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("name", NAME),
    Column("architecture", String(200), nullable=False, server_default=""),
    # As the client sent it, since HEAD gives it back.
    Column("metadata", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("wanted_sha256", String(64)),
    # The folder that its file lies in: processes that do not share it leave it alone.
    Column("place", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    # Known before the file becomes a blob, so that a restart between the two finds it again.
    Column("sha256", String(64)),
    Column("facts", JSON(none_as_null=True)),
    Column("attempts", Integer, nullable=False),
    Column("problem", JSON(none_as_null=True)),
    Column("resource_id", ID),
    Column("created", Moment, nullable=False),
    Column("expires", Moment, nullable=False),
    Column("finished", Moment),
    Index("ix_uploads_state_expires", "state", "expires"),
    Index("ix_uploads_tenant_state", "tenant", "state"),
)
