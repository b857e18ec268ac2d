"""One database for jobs and for references to blobs: SQLite by default, PostgreSQL for several machines."""

from aslconvert.workers.database.clock import BootClock, Clock, DatabaseClock
from aslconvert.workers.database.connect import Database, Transaction
from aslconvert.workers.database.migrate import downgrade, migrate, needs_migration

__all__ = ["BootClock", "Clock", "Database", "DatabaseClock", "Transaction", "downgrade", "migrate", "needs_migration"]
