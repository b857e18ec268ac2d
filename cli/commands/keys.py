"""`aslconvert keys`: makes, lists and revokes API keys over the service, or makes one beside its database."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from aslconvert.cli import options, places
from aslconvert.cli.console import answer_stream, page, write_json
from aslconvert.converter.errors import UsageError

SCOPES = ("read", "write", "admin", "operator")

app = typer.Typer(
    help="Make, list and revoke the API keys of a service.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.", show_default=False)]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", metavar="|".join(SCOPES), help="What it may do; repeatable.", show_default="read, write"),
]
Days = Annotated[
    int | None, typer.Option("--expires", metavar="DAYS", min=1, help="After so many days.", show_default="never")
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", help="Whose key it is (operators).", show_default="the own tenant")
]


@app.command("create", short_help="Make a key; it is shown once.")
def create(
    name: Name,
    *,
    scope: Scopes = None,
    expires: Days = None,
    tenant: Tenant = None,
    server: options.Server = None,
    key_file: options.KeyFile = None,
    json: options.Json = False,
) -> None:
    """Make a key over the service. It is printed this once."""
    scopes = _scopes(scope, ("read", "write"))
    with answer_stream() as stream:
        from aslconvert.cli.remote.outcomes import opened

        with opened(server, key_file) as client:
            made = client.create_key(name, scopes=scopes, expires_in_days=expires, tenant=tenant)
        if json:
            write_json(made, stream)
        else:
            stream.write(f"{made.key}\n")


@app.command("list", short_help="Show keys without their secrets.")
def show(*, server: options.Server = None, key_file: options.KeyFile = None, json: options.Json = False) -> None:
    """List the tenant's keys, revoked and expired ones too."""
    with answer_stream() as stream:
        from aslconvert.cli.remote.outcomes import opened
        from aslconvert.cli.remote.views import show_keys

        with opened(server, key_file) as client:
            found = list(client.keys())
        if json:
            write_json({"keys": [key.model_dump(mode="json", exclude={"key"}) for key in found]}, stream)
        else:
            show_keys(found, page(stream))


@app.command("revoke", short_help="Make a key useless.")
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, the middle of asl_ID_SECRET.")],
    *,
    server: options.Server = None,
    key_file: options.KeyFile = None,
    json: options.Json = False,
) -> None:
    """Revoke a key; whoever uses it is refused from then on."""
    if key.startswith("asl_"):
        raise UsageError("key", "That is a whole key, not an id.", hint="Give only the part between the underscores.")
    with answer_stream() as stream:
        from aslconvert.cli.remote.outcomes import opened

        with opened(server, key_file) as client:
            client.revoke_key(key)
        if json:
            write_json({"revoked": key}, stream)
        else:
            stream.write(f"revoked {key}\n")


@app.command("bootstrap", short_help="Make a key beside the database.")
def bootstrap(
    *,
    name: Annotated[str, typer.Option("--name", help="What the key is for.")] = "bootstrap",
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="|".join(SCOPES), help="What it may do; repeatable.", show_default="all"),
    ] = None,
    expires: Days = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose key it is.")] = "default",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write it there and not to standard output.", show_default=False),
    ] = None,
    folder: places.Folder = places.DEFAULT_FOLDER,
    database_url: places.DatabaseUrl = None,
    json: options.Json = False,
) -> None:
    """Make a key with the deployment's own database and secret, without a service: for the first key of a cluster."""
    scopes = _scopes(scope, SCOPES)
    with answer_stream() as stream:
        settings = places.settings_of(folder=folder, database_url=database_url)
        try:
            from aslconvert.cli.keeping import keep
            from aslconvert.service.keys.service import create_key
            from aslconvert.service.security.callers import Scope
        except ModuleNotFoundError as error:
            raise places.missing(error) from error

        lasting = None if expires is None else timedelta(days=expires)
        made = create_key(settings, name=name, tenant=tenant, scopes=[Scope(one) for one in scopes], expires_in=lasting)
        if output is not None:
            keep(made, output)
        if json:
            write_json({"id": made.split("_")[1], "path": output} if output else {"key": made}, stream)
        elif output is None:
            stream.write(f"{made}\n")


def _scopes(given: list[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    scopes = tuple(given or default)
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise UsageError("scope", f"There is no scope {unknown[0]!r}.", hint=f"There are {', '.join(SCOPES)}.")
    return scopes
