"""`aslconvert admin`: care for a deployment beside the service, with its database and its files at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aslconvert.cli import options, places
from aslconvert.cli.commands.keys import bootstrap
from aslconvert.cli.console import answer_stream, say, write_json
from aslconvert.cli.failure import EXIT_WAITING
from aslconvert.converter.errors import UsageError, VerificationFailed

if TYPE_CHECKING:
    from aslconvert.service.settings import Settings

app = typer.Typer(
    help="Care for a deployment: tables, keys, backup, checks, workers. Runs beside its database, without a service.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("create-key", short_help="Make an API key.")(bootstrap)

Redis = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", envvar="ASLCONVERT_REDIS", help="The broker.", show_default="none"),
]
Backup = Annotated[Path, typer.Argument(metavar="BACKUP", help="The folder of the backup.", show_default=False)]


@app.command("migrate", short_help="Bring the tables to this version.")
def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Only say it; exit code 6 where there is something to do.")
    ] = False,
    folder: places.Folder = places.DEFAULT_FOLDER,
    database_url: places.DatabaseUrl = None,
    json: options.Json = False,
) -> None:
    """Bring the tables to this version, which every start does too. Older versions go on working with newer tables."""
    with _deployment(there=False, folder=folder, database_url=database_url) as (settings, stream):
        from aslconvert.service.admin.tables import bring_up, look

        url = settings.places.database_url
        settings.folder.mkdir(parents=True, exist_ok=True)
        found = look(url) if check else bring_up(url)
        _answer(stream, found, f"tables: {found.before or 'none'}, wanted: {found.wanted}", json)
        if check and not found.current:
            raise typer.Exit(VerificationFailed.exit_code)


@app.command("backup", short_help="Copy rows and blobs to a folder.")
def backup(
    target: Backup,
    *,
    folder: places.Folder = places.DEFAULT_FOLDER,
    database_url: places.DatabaseUrl = None,
    storage: places.Storage = None,
    json: options.Json = False,
) -> None:
    """Copy all records as of one moment, and every blob that they hold, to a new folder, while the service works.

    Every file's SHA-256 is written down. The deployment's secret is not in it: keep that elsewhere.
    """
    with _deployment(folder=folder, database_url=database_url, storage=storage) as (settings, stream):
        from aslconvert.service.admin.backup import back_up

        with settings.places.opened() as (store, blobs):
            made = back_up(store.database, blobs, _secrets(settings), target, tell=say)
        _answer(
            stream, made, f"{made.rows} rows and {made.blobs} blobs ({made.blob_bytes} bytes) in {made.folder}", json
        )


@app.command("restore", short_help="Bring a backup into an empty deployment.")
def restore(
    source: Backup,
    *,
    other_secret: Annotated[
        bool, typer.Option("--other-secret", help="Go on though API keys of the backup will not work here.")
    ] = False,
    folder: places.Folder = places.DEFAULT_FOLDER,
    database_url: places.DatabaseUrl = None,
    storage: places.Storage = None,
    json: options.Json = False,
) -> None:
    """Check a backup's hashes and bring it into an empty deployment, on whichever database. Stop the service before."""
    with _deployment(there=False, folder=folder, database_url=database_url, storage=storage) as (settings, stream):
        from aslconvert.service.admin.restore import restore as bring_back
        from aslconvert.workers.storage import open_blobs

        where = settings.places
        settings.folder.mkdir(parents=True, exist_ok=True)
        store = open_blobs(where.storage or str(where.folder / "blobs"), staging_folder=where.folder / "staging")
        secrets = _secrets(settings)
        made = bring_back(where.database_url, store, secrets, source, other_secret=other_secret, tell=say)
        keys = "" if made.keys_work else "; its API keys do not work here: make new ones"
        _answer(stream, made, f"{made.rows} rows and {made.blobs} blobs ({made.blob_bytes} bytes) are back{keys}", json)


@app.command("fsck", short_help="Compare blobs with records, both ways.")
def fsck(
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Read every blob and compare its hash.")] = False,
    folder: places.Folder = places.DEFAULT_FOLDER,
    database_url: places.DatabaseUrl = None,
    storage: places.Storage = None,
    json: options.Json = False,
) -> None:
    """Compare blobs with records, both ways; changes nothing. Exit code 6 where data is lost or in danger."""
    with _deployment(folder=folder, database_url=database_url, storage=storage) as (settings, stream):
        from aslconvert.service.admin.fsck import check

        with settings.places.opened() as (store, blobs):
            found = check(store.database, blobs, deep=deep, tell=say)
        lines = [f"{one.kind}: {one.blob} {one.detail}" for one in found.findings]
        told = f"{found.blobs} blobs ({found.blob_bytes} bytes), {found.references} references, {found.stored} stored"
        _answer(stream, found, "\n".join([*lines, told]), json)
        if found.lost:
            raise typer.Exit(VerificationFailed.exit_code)


@app.command("gc", short_help="Collect what nobody needs any more.")
def gc(
    *,
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", min=1, help="Finished jobs.", show_default="ASLCONVERT_RETENTION_DAYS")
    ] = None,
    grace: Annotated[float, typer.Option("--grace", min=1, help="Seconds for which a new blob is left alone.")] = 3600,
    abandoned: Annotated[
        float, typer.Option("--abandoned", min=1, help="Seconds of silence that end an unfinished file.")
    ] = 86400,
    folder: places.Folder = places.DEFAULT_FOLDER,
    database_url: places.DatabaseUrl = None,
    storage: places.Storage = None,
    json: options.Json = False,
) -> None:
    """Expire old jobs and delete blobs that nobody holds, as the service does every five minutes."""
    with _deployment(folder=folder, database_url=database_url, storage=storage) as (settings, stream):
        from aslconvert.service.admin.collecting import collect

        keep = timedelta(days=keep_days or settings.retention_days)
        with settings.places.opened() as (store, blobs):
            done = collect(store, blobs, keep=keep, grace=grace, abandoned=abandoned)
        told = (
            f"{done.jobs_expired} jobs expired, {done.blobs} blobs and {done.files_under_way} unfinished files deleted"
        )
        _answer(stream, done, told, json)


@app.command("drain", short_help="Let a worker finish its job and end.")
def drain(
    name: Annotated[str, typer.Argument(metavar="WORKER", help="The worker's --name.", show_default=False)],
    *,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Seconds to wait.", show_default="as long as it takes")
    ] = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="Leave it idle: containers that end are started again. Needs Redis.")
    ] = False,
    folder: places.Folder = places.DEFAULT_FOLDER,
    database_url: places.DatabaseUrl = None,
    redis: Redis = None,
    json: options.Json = False,
) -> None:
    """Tell a worker to take no new job and to end. Exit code 75 where its job goes on when the time is over.

    SIGTERM is quicker: it gives the job back with its state, and another worker goes on.
    """
    with _deployment(folder=folder, database_url=database_url, redis=redis) as (settings, stream):
        from aslconvert.service.admin.draining import drain as let_end

        ended = let_end(settings.places, name, wait=timeout, stay=stay, tell=say)
        told = f"{name} has no job and takes none" if ended else f"{name} still has a job"
        _answer(stream, {"worker": name, "drained": ended}, told, json)
        if not ended:
            raise typer.Exit(EXIT_WAITING)


@contextmanager
def _deployment(*, there: bool = True, **given: Any) -> Iterator[tuple[Settings, Any]]:
    """``there``: what does not exist is an error, not an empty deployment that is then made."""
    # Backups hold models, data and secrets of webhooks: their owner's alone.
    before = os.umask(0o077)
    try:
        with answer_stream() as stream:
            settings = places.settings_of(**given)
            if there and settings.database_url is None and not (settings.folder / "jobs.db").is_file():
                told = f"There is no deployment in '{settings.folder}'."
                raise UsageError("no_deployment", told, hint="Give --folder, or --database-url.")
            try:
                import aslconvert.service.domains  # noqa: F401  all that the commands need is there, or none of it
            except ModuleNotFoundError as error:
                raise places.missing(error) from error
            yield settings, stream
    finally:
        os.umask(before)


def _secrets(settings: Settings) -> Any:
    from aslconvert.service.security.secrets import Secrets
    from aslconvert.service.settings import master_secret

    return Secrets(master_secret(settings))


def _answer(stream: Any, found: Any, told: str, json: bool) -> None:
    if json:
        write_json(found, stream)
    else:
        stream.write(f"{told}\n")
        stream.flush()
