"""Where a deployment keeps its jobs and blobs, and how a process opens them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aslconvert.workers.database import Database, migrate
from aslconvert.workers.jobs import JobStore
from aslconvert.workers.storage import Blobs, open_blobs


@dataclass(frozen=True, kw_only=True)
class Places:
    """``folder`` holds what a process writes while it works, and by default everything else.

    ``database``: an SQLAlchemy address, of SQLite or PostgreSQL; ``storage``: a folder or ``s3://bucket/prefix``;
    ``redis``: the address of a broker, or None for the embedded dispatch.
    """

    folder: Path
    database: str | None = None
    storage: str | None = None
    redis: str | None = None

    def __post_init__(self) -> None:
        # Once: processes that are started elsewhere are told of it.
        object.__setattr__(self, "folder", self.folder.absolute())

    @property
    def work(self) -> Path:
        """Where jobs run."""
        return self.folder / "work"

    @property
    def database_url(self) -> str:
        """The address of the database."""
        return self.database or f"sqlite:///{self.folder / 'jobs.db'}"

    @contextmanager
    def opened(self) -> Iterator[tuple[JobStore, Blobs]]:
        """The stores, after the database has been brought to this version's tables.

        Raises:
            InfrastructureError: ``database_unavailable`` and the like.
            UserError: ``bad_blob_place``, ``bad_database_url``, ``database_encoding``.
        """
        # Secrets of webhooks and what tenants sent lie there in plain form: it is nobody else's to read.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        migrate(self.database_url)
        database = Database(self.database_url)
        try:
            place = self.storage or str(self.folder / "blobs")
            yield JobStore(database), Blobs(database, open_blobs(place, staging_folder=self.folder / "staging"))
        finally:
            database.close()
