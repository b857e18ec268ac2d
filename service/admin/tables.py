"""Which revision the tables have, and which one this version wants."""

from __future__ import annotations

from dataclasses import dataclass

from alembic.runtime.migration import MigrationContext

from aslconvert.workers.database import Database, Transaction, migrate
from aslconvert.workers.database.migrate import revisions


@dataclass(frozen=True, kw_only=True)
class Revision:
    """``before`` is None where there were no tables; ``wanted`` is this version's."""

    before: str | None
    wanted: str

    @property
    def current(self) -> bool:
        """Whether nothing was, or is, to be done."""
        return self.before == self.wanted


def revision_of(at: Transaction) -> str | None:
    """The revision of the tables, None where there are none."""
    return MigrationContext.configure(at.connection).get_current_revision()


def look(url: str) -> Revision:
    """What would be done. Raises as `Database` does."""
    database = Database(url)
    try:
        return Revision(before=database.read(revision_of), wanted=revisions()[0])
    finally:
        database.close()


def bring_up(url: str) -> Revision:
    """Bring the tables to this version. Raises as `migrate` does."""
    found = look(url)
    migrate(url)
    return found
