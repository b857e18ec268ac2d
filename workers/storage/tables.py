"""The tables that know which blobs are held, in the database of the jobs, so that references commit with a job."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, String, Table

from aslconvert.workers.database.base import Moment, metadata

blobs = Table(
    "blobs",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("created", Moment, nullable=False),
    Column("expires", Moment),
    # When it was last put, on the clock of leases: a step of the wall clock must not make an upload look old.
    Column("touched_at", Float(53), nullable=False),
    Column("touched_epoch", String(64), nullable=False),
    Index("ix_blobs_touched_at", "touched_at"),
)

# No cascade: the database itself refuses to forget a blob that is held.
blob_refs = Table(
    "blob_refs",
    metadata,
    Column("hash", String(64), ForeignKey("blobs.hash"), primary_key=True),
    Column("holder_kind", String(32), primary_key=True),
    Column("holder_id", String(64), primary_key=True),
    Index("ix_blob_refs_holder", "holder_kind", "holder_id"),
)
