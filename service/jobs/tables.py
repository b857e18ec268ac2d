"""What the service knows of a job beside the store: what it reads, and who is to hear of its end."""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table, Text

from aslconvert.workers.database.base import Moment, metadata
from aslconvert.workers.jobs.tables import ID, NAME

job_inputs = Table(
    "job_inputs",
    metadata,
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("tenant", NAME, nullable=False),
    Column("model_id", String(64), nullable=False),
    Column("dataset_id", String(64)),
    Index("ix_job_inputs_model_id", "tenant", "model_id", "job_id"),
    Index("ix_job_inputs_dataset_id", "tenant", "dataset_id", "job_id"),
)

# An outbox: a row is due once its job has finished, and leaves when somebody has taken the message or all tries failed.
webhooks = Table(
    "webhooks",
    metadata,
    Column("job_id", ID, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("id", ID, nullable=False),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("next_at", Moment, nullable=False),
    Column("error", Text),
    Index("ix_webhooks_state_next_at", "state", "next_at"),
)
