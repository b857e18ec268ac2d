"""The tables of data sets and of previews that were made of them."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, String, Table, UniqueConstraint

from aslconvert.workers.database.base import Moment, metadata
from aslconvert.workers.jobs.tables import ID, NAME

datasets = Table(
    "datasets",
    metadata,
    Column("id", ID, primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("name", NAME, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("facts", JSON(none_as_null=True), nullable=False),
    Column("created", Moment, nullable=False),
    UniqueConstraint("tenant", "sha256"),
)

previews = Table(
    "previews",
    metadata,
    # The hash of what was asked: the data, the model, how many samples, how they are prepared.
    Column("id", String(64), primary_key=True),
    Column("dataset_id", ID, ForeignKey("datasets.id", ondelete="CASCADE"), nullable=False),
    Column("model_id", ID, ForeignKey("models.id", ondelete="CASCADE")),
    Column("asked", JSON(none_as_null=True), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("sha256", String(64)),
    Column("problem", JSON(none_as_null=True)),
    Column("created", Moment, nullable=False),
    Index("ix_previews_dataset_id", "dataset_id"),
    Index("ix_previews_model_id", "model_id"),
    Index("ix_previews_state", "state"),
)
