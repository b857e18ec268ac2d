"""Fetches what a job wrote into a folder that `verify` then accepts: the same files as after a run here."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from aslconvert.cli.progress import RichProgress
from aslconvert.cli.remote.watching import bytes_of
from aslconvert.converter.errors import InternalError, UsageError
from aslconvert.service.client import Artifact, Client, Job

LAST = ("artifacts.json", "SHA256SUMS", "report.html", "report.json")
"""Without these a folder is no conversion: they come when the files that they describe are there."""


def fetch(client: Client, job: Job, out: Path, *, progress: RichProgress) -> list[Path]:
    """Download every file of the job; each appears under its name when its hash is right. Gives their paths.

    Raises:
        UsageError: ``no_artifacts``, the job wrote no file.
        ClientError: as of `Client.download`.
    """
    files = sorted(client.artifacts(job.id), key=lambda one: (_order(one), one.name))
    if not files:
        raise UsageError("no_artifacts", f"Job {job.id} wrote no files.", hint="Only a conversion that succeeded does.")
    targets = [out / _inside(one.name) for one in files]
    for one, target in zip(files, targets, strict=True):
        progress.stage(f"download {one.name}")
        client.download(one, target, progress=bytes_of(progress))
    return targets


def _order(artifact: Artifact) -> int:
    return LAST.index(artifact.name) + 1 if artifact.name in LAST else 0


def _inside(name: str) -> Path:
    """The name as a path below a folder; whatever a server says, nothing is written outside of it."""
    path = PurePosixPath(name)
    plain = name.isprintable() and not path.is_absolute() and "\\" not in name and ".." not in path.parts
    if not plain or not path.parts or any(part.startswith(".") for part in path.parts):
        raise InternalError("bad_name", f"The server calls a file {name!r}.")
    return Path(*path.parts)
