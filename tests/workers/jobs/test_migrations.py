"""The migrations make exactly the tables of the code, undo them, and bear company."""

import subprocess
import sys
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

import aslconvert.service.app
import aslconvert.workers.jobs.tables
import aslconvert.workers.storage.tables  # noqa: F401  the tables enter the catalogue when they are imported
from aslconvert.workers.database import Database, downgrade, migrate, needs_migration
from aslconvert.workers.database.base import metadata

PARTIAL = ("ready", "waiting", "leased", "ended")


def test_the_tables_are_those_of_the_code(database: Database) -> None:
    assert not needs_migration(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_they_go_down_and_up_again(url: str, database: Database) -> None:
    downgrade(url, "base")
    assert needs_migration(database)
    assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
    migrate(url)
    migrate(url)
    assert not needs_migration(database)


def test_partial_indexes_are_partial(database: Database) -> None:
    wanted = {index.name for table in metadata.tables.values() for index in table.indexes}
    for table in metadata.tables:
        for index in inspect(database.engine).get_indexes(table):
            wanted.discard(index["name"])
            partial = index.get("dialect_options", {}).get(f"{database.engine.dialect.name}_where")
            assert (partial is not None) == (index["name"] in {f"ix_jobs_{n}" for n in PARTIAL}), index
    assert wanted == set()


def test_processes_that_start_at_once_make_one_set_of_tables(url: str, tmp_path: Path) -> None:
    if url.startswith("sqlite"):
        url = f"sqlite:///{tmp_path}/new.db"
    else:
        downgrade(url, "base")
    code = "import sys; from aslconvert.workers.database import migrate; migrate(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in started:
        _, told = process.communicate()
        assert process.returncode == 0, told
    database = Database(url)
    assert not needs_migration(database)
    database.close()
