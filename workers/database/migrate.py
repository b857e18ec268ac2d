"""Brings a database to the tables of this version, also when several processes start at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from aslconvert.workers.database.connect import Database, Transaction

_ADVISORY_LOCK = 0x61736C6A  # "aslj": any number that nobody else locks


def migrate(url: str, *, revision: str = "head", patience: float = 60.0) -> None:
    """Create or upgrade the tables, by default to this version's; nothing happens where they are current.

    ``patience`` is for how many seconds another process may migrate at the same time.

    Raises:
        UserError: ``bad_database_url``, ``database_encoding``.
        InfrastructureError: ``database_unavailable``, ``disk_full``.
    """
    _run(url, patience, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str, *, patience: float = 60.0) -> None:
    """Go back to a revision, ``base`` for none; data of dropped tables is lost. Raises as `migrate` does."""
    _run(url, patience, lambda config: command.downgrade(config, revision))


def revisions() -> Sequence[str]:
    """Every revision that this version knows, its own first."""
    return [one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions()]


def needs_migration(database: Database) -> bool:
    """Whether the tables are not those of this version."""
    head = revisions()[0]

    def current(transaction: Transaction) -> str | None:
        return MigrationContext.configure(transaction.connection).get_current_revision()

    return database.read(current) != head


def _run(url: str, patience: float, step: Callable[[Config], None]) -> None:
    database = Database(url, patience=patience)

    def work(transaction: Transaction) -> None:
        # On SQLite the transaction itself is the lock: a second process waits for it, then finds nothing to do.
        if not database.is_sqlite:
            transaction.connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        config = _config()
        config.attributes["connection"] = transaction.connection
        step(config)

    try:
        database.write(work)
    finally:
        database.close()


def _config() -> Config:
    config = Config()
    # A per cent sign in a path would be read as an interpolation.
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    return config
