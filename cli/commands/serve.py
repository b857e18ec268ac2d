"""`aslconvert serve`: the REST service, with a worker in the same process unless it is told otherwise."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from aslconvert.cli import places
from aslconvert.cli.console import answer_stream, say
from aslconvert.converter.errors import InfrastructureError, UsageError


def serve(
    *,
    host: Annotated[str, typer.Option("--host", metavar="IP", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The port to listen at.")] = 8765,
    folder: places.Folder = places.DEFAULT_FOLDER,
    database_url: places.DatabaseUrl = None,
    storage: places.Storage = None,
    redis: Annotated[
        str | None,
        typer.Option(
            "--redis",
            metavar="URL",
            envvar="ASLCONVERT_REDIS",
            help="Tell workers of jobs over Celery and this Redis.",
            show_default="workers look into the database",
        ),
    ] = None,
    embedded: Annotated[
        bool | None,
        typer.Option(
            "--embedded/--no-embedded", help="Work off jobs here too.", show_default="unless --redis is given"
        ),
    ] = None,
    metrics: Annotated[
        bool, typer.Option("--metrics/--no-metrics", envvar="ASLCONVERT_METRICS", help="Answer Prometheus at /metrics.")
    ] = False,
    strict: places.Strict = False,
    engine: Annotated[str | None, typer.Option("--engine", hidden=True)] = None,
) -> None:
    """Serve the REST API until SIGTERM, which lets requests end and gives the running job back with its state.

    The first start makes a key, shows it once and leaves it in DIR/key, where the other commands find it.
    """
    with answer_stream():
        settings = places.settings_of(
            folder=folder,
            database_url=database_url,
            storage=storage,
            redis=redis,
            embedded=redis is None if embedded is None else embedded,
            metrics=metrics,
            strict=strict,
            engine=engine,
        )
        try:
            from aslconvert.cli.keeping import first_key
            from aslconvert.service.running import serve as run

            if settings.redis is not None:
                import aslconvert.workers.dispatch.celery  # noqa: F401 -- found out before a key is made
        except ModuleNotFoundError as error:
            raise places.missing(error, extra="service" if settings.redis is None else "celery") from error

        _require_free(host, port)
        os.umask(0o077)  # the database, which the first key makes, is nobody else's to read
        if (found := first_key(settings)) is not None:
            key, path = found
            say(f"aslconvert: the first key is {key}\naslconvert: it is shown this once, and kept in '{path}'.")
        if host not in ("127.0.0.1", "::1", "localhost"):
            say("aslconvert: others can reach this service, and their keys travel unencrypted: put TLS before it.")
        say(f"aslconvert: serving at http://{host}:{port}, jobs run {'here' if settings.embedded else 'in workers'}.")
        try:
            served = run(settings, host=host, port=port)
        except SystemExit:
            served = False  # the server's own codes mean other things among ours
        if not served:
            raise InfrastructureError("service_failed", "The service did not start: see the lines above.")


def _require_free(host: str, port: int) -> None:
    """Raises UsageError before anything is written where the server could not listen."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        told = f"Nothing can listen at {host}, port {port}: {error.strerror or error}."
        raise UsageError("address", told, hint="Name another --host or --port.") from error
