"""Every row of a deployment as lines of JSON, the same from SQLite and from PostgreSQL, and back."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import BigInteger, Row, Table, func, insert, inspect, select, text

# The tables of every domain: reading them is all that the import is for.
import aslconvert.service.domains  # noqa: F401
from aslconvert.workers.database import Transaction
from aslconvert.workers.database.base import Moment, metadata
from aslconvert.workers.errors import InternalError, UserError

_BATCH: Final = 500
_ALEMBIC: Final = "alembic_version"


@dataclass(frozen=True)
class Dumped:
    """A table's file: how many rows, and the SHA-256 of its bytes."""

    rows: int
    sha256: str


def tables() -> list[Table]:
    """Every table, those that others refer to first."""
    return list(metadata.sorted_tables)


def one_view(at: Transaction) -> None:
    """Let all that follows in this transaction see the same moment; SQLite does so anyway.

    Raises:
        InternalError: ``table_forgotten``, when the database has a table that would not be dumped.
    """
    if at.connection.dialect.name == "postgresql":
        at.connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    forgotten = set(inspect(at.connection).get_table_names()) - {table.name for table in tables()} - {_ALEMBIC}
    if forgotten:
        raise InternalError("table_forgotten", f"Nothing knows how to keep {', '.join(sorted(forgotten))}.")


def dump(at: Transaction, table: Table, path: Path, *, wanted: Callable[[Row[Any]], bool]) -> Dumped:
    """Write the rows that are wanted, in the order of their keys, one object a line."""
    digest, count = hashlib.sha256(), 0
    order = [table.c[column.name] for column in table.primary_key]
    with path.open("wb") as file:
        for row in at.connection.execute(select(table).order_by(*order).execution_options(yield_per=_BATCH)):
            if not wanted(row):
                continue
            values = {name: _told(value) for name, value in row._mapping.items()}
            line = json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"
            file.write(line)
            digest.update(line)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return Dumped(count, digest.hexdigest())


def load(at: Transaction, table: Table, path: Path, *, mended: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Insert the rows of a file, each as ``mended`` gives it; how many.

    Raises:
        UserError: ``backup_damaged``, for a line that is no row of the table.
    """
    count = 0
    for batch in _batched(_read(table, path, mended)):
        at.connection.execute(insert(table), batch)
        count += len(batch)
    _go_on_counting(at, table)
    return count


def is_empty(at: Transaction) -> bool:
    """Whether there is no row at all; the tables must be there."""
    present = set(inspect(at.connection).get_table_names())
    return not any(
        at.connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in tables()
        if table.name in present
    )


def _told(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _read(table: Table, path: Path, mended: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                values = json.loads(line)
                unknown = set(values) - set(table.c.keys())
                if unknown:
                    raise ValueError(f"unknown columns {sorted(unknown)}")
                for name, value in values.items():
                    if value is not None and isinstance(table.c[name].type, Moment):
                        values[name] = datetime.fromisoformat(value)
            except (ValueError, TypeError, AttributeError) as error:
                told = f"Line {number} of {path.name} is no row of {table.name}."
                raise UserError("backup_damaged", told) from error
            yield mended(values)


def _batched(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    for row in rows:
        # One statement takes rows of the same columns.
        if batch and (len(batch) == _BATCH or batch[0].keys() != row.keys()):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _go_on_counting(at: Transaction, table: Table) -> None:
    """Numbers that the database gives must not begin again at 1 after rows that brought theirs."""
    if at.connection.dialect.name != "postgresql":
        return
    for column in table.primary_key:
        if isinstance(column.type, BigInteger) and column.autoincrement is True:
            last = at.connection.execute(select(func.max(column))).scalar_one()
            if last is not None:
                named = func.pg_get_serial_sequence(table.name, column.name)
                at.connection.execute(select(func.setval(named, last)))
