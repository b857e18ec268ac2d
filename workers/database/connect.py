"""Connections and transactions: one writer at a time on SQLite, retries within a bounded time, coded errors."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as NoConnection

from aslconvert.workers.database.clock import BootClock, Clock, DatabaseClock
from aslconvert.workers.errors import InfrastructureError, UserError

Result = TypeVar("Result")

# Below the patience, so that a blocked writer comes back to Python and can be refused in time.
BUSY_SECONDS = 1.0

CONNECT_SECONDS = 5
"""For which a server may take to answer a new connection; the network alone would wait for minutes."""

SILENT_SECONDS = 10
"""For which the other end of an open connection may be silent; by itself the network waits for a quarter of an hour."""

_CLIENT_SIDE = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": SILENT_SECONDS,
    "keepalives_interval": SILENT_SECONDS // 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 1000 * SILENT_SECONDS,
}
# A machine that was cut off in a transaction must not keep its locks for hours: the server looks after it likewise.
_SERVER_SIDE = f"""
    SELECT set_config('tcp_keepalives_idle', '{SILENT_SECONDS}', false),
        set_config('tcp_keepalives_interval', '{SILENT_SECONDS // 2}', false),
        set_config('tcp_keepalives_count', '2', false),
        set_config('tcp_user_timeout', '{1000 * SILENT_SECONDS}', false)
"""

KEPT, MORE = 5, 45
"""Connections that stay open, and more that there may be: the service answers in 40 threads, and some work beside."""

_NO_SERVER = frozenset({
    "AdminShutdown", "CannotConnectNow", "ConnectionTimeout", "InterfaceError", "OperationalError",
    "TooManyConnections",
})  # fmt: skip
_TRY_AGAIN = frozenset({"40001", "40P01"})  # serialization failure, deadlock: the server has rolled back


@dataclass(frozen=True)
class Transaction:
    """A connection within a transaction, and the time that its statements go by."""

    connection: Connection
    clock: Clock

    @property
    def now(self) -> ColumnElement[float]:
        """Seconds on the clock of leases; read here and not at the begin, which may have waited for a lock."""
        return self.clock.now()

    @property
    def epoch(self) -> str:
        return self.clock.epoch()

    @property
    def wall(self) -> datetime:
        return self.clock.wall()


class Database:
    """The engine of a URL such as ``sqlite:////var/lib/aslconvert/jobs.db`` or ``postgresql://host/jobs``.

    Args:
        url: SQLite needs a file, since processes share it.
        clock: the clock of leases; by default the one that fits the database (`clock.py`).
        patience: seconds for which a locked or restarting database is tried again.

    Raises:
        UserError: ``bad_database_url``.
    """

    def __init__(self, url: str, *, clock: Clock | None = None, patience: float = 15.0) -> None:
        self.engine = _engine(url, patience)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.clock: Clock = clock or (BootClock() if self.is_sqlite else DatabaseClock())
        self.patience = patience

    def write(self, work: Callable[[Transaction], Result]) -> Result:
        """Run ``work`` in one transaction that may write; it must bear being run again after a rollback.

        Raises:
            InfrastructureError: ``database_unavailable`` when the patience is over or the outcome of the commit is
                unknown, ``disk_full``.
            UserError: ``database_encoding``, at the first connection to a database that is not in UTF-8.
        """
        return self._run(work, write=True)

    def read(self, work: Callable[[Transaction], Result]) -> Result:
        """Run ``work`` on one consistent view; raises as `write` does."""
        return self._run(work, write=False)

    def close(self) -> None:
        """Close all connections of this process."""
        self.engine.dispose()

    def _run(self, work: Callable[[Transaction], Result], *, write: bool) -> Result:
        deadline = time.monotonic() + self.patience
        pause = 0.005
        while True:
            committing = False
            try:
                with self.engine.connect().execution_options(asl_write=write) as connection:
                    with connection.begin() as begun:
                        result = work(Transaction(connection, self.clock))
                        committing = True
                        begun.commit()
                    return result
            except NoConnection as error:
                told = "All connections of this process are in use."
                raise InfrastructureError("database_unavailable", told) from error
            except DBAPIError as error:
                # SQLite says "busy" before it changes anything; a server lost in a commit has not said what it did.
                unknown = committing and not self.is_sqlite and write
                hopeless = unknown or not _passes(error, self.is_sqlite)
                if hopeless or time.monotonic() + pause > deadline:
                    coded = _coded(error, unknown=unknown)
                    if coded is None:
                        raise
                    raise coded from error
            time.sleep(pause)
            pause = min(2 * pause, 0.25)


def _engine(url: str, patience: float) -> Engine:
    pool: dict[str, Any] = {"pool_size": KEPT, "max_overflow": MORE, "pool_timeout": patience}
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "postgresql":
            # What the URL says itself stands.
            given = {name: value for name, value in _CLIENT_SIDE.items() if name not in parsed.query}
            engine = create_engine(parsed, pool_pre_ping=True, connect_args=given, **pool)
            # Before SQLAlchemy's own first questions, which fail in a database whose texts come as bytes.
            event.listen(engine, "connect", _prepare_postgres, insert=True)
            return engine
        if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
            raise UserError("bad_database_url", "The job store needs a SQLite file or PostgreSQL.")
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, **pool)
    except ArgumentError as error:
        raise UserError("bad_database_url", "The database's URL cannot be read.") from error
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        hint = "Install aslconvert[postgres]."
        raise InfrastructureError("database_driver_missing", f"No driver: {error}.", hint=hint) from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_postgres(connection: Any, _: object) -> None:
    found = connection.info.parameter_status("server_encoding")
    # Names and errors of tenants come in any script. A pooler may not tell.
    if found not in (None, "UTF8"):
        told = f"The database {connection.info.dbname!r} keeps texts in {found}, which does not hold all of Unicode."
        hint = "Make another one: CREATE DATABASE aslconvert ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0."
        raise UserError("database_encoding", told, hint=hint)
    connection.execute(_SERVER_SIDE)
    connection.commit()


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # Python's own BEGIN comes late and is deferred: two readers that both go on to write would then fail at once.
    connection.isolation_level = None
    # Every process sets it, as none knows that it is the first; in a file that has it already this is only a read.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a job that was accepted outlives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get("asl_write", False):
        connection.exec_driver_sql("BEGIN")
        return
    raw: Any = connection.connection.dbapi_connection
    deadline = time.monotonic() + BUSY_SECONDS
    # SQLite's own wait grows to 100 ms, so that those who wait lose to those who come: here all have the same odds.
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        while not _ready(raw) and time.monotonic() < deadline:
            time.sleep(random.uniform(0.001, 0.004))
        if not raw.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # whose error SQLAlchemy knows
    finally:
        raw.execute(f"PRAGMA busy_timeout = {round(1000 * BUSY_SECONDS)}")


def _ready(raw: sqlite3.Connection) -> bool:
    """Whether nothing is left to wait for: mostly, that this connection is the writer now."""
    try:
        raw.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        # Whatever else it is, the caller's own try says so in SQLAlchemy's words.
        return error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY
    return True


def _passes(error: DBAPIError, is_sqlite: bool) -> bool:
    """Whether the same transaction may succeed if it is run again."""
    original: Any = error.orig
    if is_sqlite:
        return getattr(original, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    state = getattr(original, "sqlstate", None)
    # Without a state the server was not reached; 57P01 to 57P03 and 08xxx are a server going down or coming up.
    gone = state is None and type(original).__name__ in {"OperationalError", "ConnectionTimeout"}
    return bool(error.connection_invalidated or gone or state in _TRY_AGAIN or str(state).startswith(("57P", "08")))


def _coded(error: DBAPIError, *, unknown: bool) -> InfrastructureError | None:
    """What happened in our words; None for a defect of ours in a statement, which keeps its own."""
    original: Any = error.orig
    primary = getattr(original, "sqlite_errorcode", 0) & 0xFF
    if primary == sqlite3.SQLITE_FULL or getattr(original, "sqlstate", None) == "53100":
        return InfrastructureError("disk_full", "The database's disk is full.", hint="Free some space.")
    if "no such table" in str(original) or getattr(original, "sqlstate", None) == "42P01":
        hint = "Bring it up to date with `aslconvert.workers.database.migrate`."
        return InfrastructureError(
            "database_not_migrated", "The database has not the tables of this version.", hint=hint
        )
    operational = type(original).__name__ in _NO_SERVER
    # SQLite calls a wrong statement operational too, by its least telling code.
    operational = operational and primary != sqlite3.SQLITE_ERROR
    if not (operational or unknown or error.connection_invalidated):
        return None
    told = "It is not known whether it took the last change." if unknown else ""
    return InfrastructureError("database_unavailable", f"The database does not answer: {original}.", hint=told)
