"""Options of the commands that stand beside a deployment's database: where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aslconvert.converter.errors import InfrastructureError, UsageError

if TYPE_CHECKING:
    from aslconvert.service.settings import Settings

Folder = Annotated[
    Path,
    typer.Option(
        "--folder",
        metavar="DIR",
        envvar="ASLCONVERT_FOLDER",
        help="Where jobs run; the database, the blobs and the key lie there too, unless they are named.",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        envvar="ASLCONVERT_DATABASE_URL",
        help="sqlite:/// or postgresql://",
        show_default="a file in the folder",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="DIR|s3://",
        envvar="ASLCONVERT_STORAGE",
        help="Where blobs are kept.",
        show_default="a folder in the folder",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict/--no-strict", help="Refuse jobs where the kernel grants less than the whole sandbox.")
]
DEFAULT_FOLDER = Path("aslconvert-data")


def missing(error: ModuleNotFoundError, *, extra: str = "service") -> InfrastructureError:
    """What to install."""
    told = f"This command needs {error.name}, which is not installed."
    return InfrastructureError("service_missing", told, hint=f"pip install 'aslconvert[{extra}]'")


def settings_of(**given: Any) -> Settings:
    """The service's settings: what is given, and for what is None the environment.

    Raises:
        InfrastructureError: ``service_missing``.
        UsageError: ``setting``, a value that does not fit.
    """
    try:
        from pydantic import ValidationError

        from aslconvert.service.settings import Settings
    except ModuleNotFoundError as error:
        raise missing(error) from error
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError("setting", f"ASLCONVERT_{where}: {first['msg']}.") from error
