"""The file in which a deployment's first key waits for the commands of the same machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from aslconvert.cli.console import say
from aslconvert.service.client.connection import KEY_FILE
from aslconvert.service.keys.service import create_first_key
from aslconvert.service.settings import Settings


def first_key(settings: Settings) -> tuple[str, Path] | None:
    """Make a key where the database has none, and keep it; None where there are keys already.

    Raises:
        OSError: the file cannot be written.
        InfrastructureError, UserError: as of `create_first_key`.
    """
    path = settings.folder / KEY_FILE
    made = create_first_key(settings)
    if made is not None:
        keep(made, path)
        return made, path
    if not path.is_file():
        say(f"aslconvert: there are keys, but none in '{path}'; `aslconvert keys bootstrap` makes another.")
    return None


def keep(key: str, path: Path) -> None:
    """Write the key to a file that its owner alone can read, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp's files are their owner's alone from the first byte on.
    handle, name = tempfile.mkstemp(prefix=".key-", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{key}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
