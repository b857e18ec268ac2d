"""`aslconvert convert --server`: send, wait, fetch; the same files, report and exit code as of a run here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aslconvert.cli.remote.fetching import fetch
from aslconvert.cli.remote.outcomes import missed, model_refused, opened
from aslconvert.cli.remote.packing import declared_beside, require_data, sendable_data, sendable_model
from aslconvert.cli.remote.resuming import Left, asked_of, forget, found, leave
from aslconvert.cli.remote.watching import bytes_of, watch
from aslconvert.converter.errors import UsageError, UserError
from aslconvert.converter.options import ConvertOptions
from aslconvert.service.client import Client, ClientError, Job, JobFailed, NotFound, UploadFailed

if TYPE_CHECKING:
    from aslconvert.cli.progress import RichProgress
    from aslconvert.converter.report.schema import Report

HERE_ONLY = ("dry_run", "plan", "dump_passes", "processes")
"""Options of files and ways of this machine; in how many processes a job heals is for its worker to say."""

_NOT_SENT = frozenset({*HERE_ONLY, "device", "resume", "cache"})


def convert_there(
    model: str,
    *,
    data: str,
    out: Path,
    options: ConvertOptions,
    server: str,
    key_file: Path | None,
    progress: RichProgress,
) -> Report:
    """Convert on a server. With ``resume`` it goes on with the job that an interrupted run left in ``out``.

    Raises:
        AslconvertError: as a run here, and UsageError ``server_option`` for what only a run here can do.
    """
    require_sendable(options)
    blocking = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        raise UsageError("out", f"'{blocking}' is a file: nothing can be written into '{out}'.", hint="Name a folder.")
    asked = asked_of(model, data, job_options(declared_beside(data, options)))
    with opened(server, key_file) as client:
        address = client.connection.server
        left = found(out, server=address, asked=asked) if options.resume else Left(address, asked)
        job = None if left.job is None else _known(client, left.job)
        if job is None:
            # A job that was deleted needs another key: the old one would be told of it.
            left = left if left.job is None else Left(address, asked)
            # Before the job starts: whatever ends this process now, the same key finds it again.
            leave(out, left)
            job = _started(client, model, data, out, options=options, key=left.key, progress=progress)
            leave(out, replace(left, job=job.id))
        progress.note(f"Job {job.id} at {address}")
        ended = _until_it_ends(client, job, out, progress)
        fetch(client, ended, out, progress=progress)
    forget(out)
    missed(ended)
    from aslconvert.converter.report.schema import read_report

    return read_report(out / "report.json")


def require_sendable(options: ConvertOptions) -> None:
    """Raises UsageError for what a job cannot do."""
    asked = [name for name in HERE_ONLY if getattr(options, name) != getattr(ConvertOptions(), name)]
    if options.metric is not None and ":" in options.metric:
        raise UsageError(
            "server_option", "A server runs no code of yours: its metrics have names.", hint="Leave --server out."
        )
    if asked:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise UsageError("server_option", f"A server does not take {words}.", hint="Leave --server out.")


def submit(
    client: Client,
    model: str,
    *,
    data: str | None,
    options: ConvertOptions,
    progress: RichProgress,
    kind: str = "convert",
    bench: Mapping[str, Any] | None = None,
    **more: Any,
) -> Job:
    """Send model and data, where the server has not got them already, and start the job; ``bench``: options of one.

    Raises:
        ModelRefused, UsageError: one of them cannot be sent, or was refused.
        ClientError: as of `Client`.
    """
    if data is not None:
        options = declared_beside(data, options)
    told = bytes_of(progress)
    with sendable_model(model) as file:
        if data is not None:
            # Before gigabytes of a model are sent.
            require_data(data)
        progress.stage(f"send {file.path.name}")
        try:
            sent = client.upload_model(file.path, name=file.name, architecture=file.architecture, progress=told)
        except UploadFailed as error:
            raise model_refused(error) from error
    dataset = None
    if data is not None:
        with sendable_data(data) as file:
            progress.stage(f"send {file.path.name}")
            dataset = client.upload_dataset(file.path, name=file.name, progress=told).id
    # Without a GPU asked for, any worker may take it, and heals where it can.
    device = "cuda" if options.device == "cuda" else None
    asked = dict(bench or {}) if kind == "bench" else job_options(options)
    return client.submit(kind=kind, model=sent.id, dataset=dataset, options=asked, device=device, **more)


def job_options(options: ConvertOptions) -> dict[str, Any]:
    """The options that are not the defaults, as JSON has them."""
    plain = ConvertOptions()
    return {
        field.name: _json(getattr(options, field.name))
        for field in dataclasses.fields(options)
        if field.name not in _NOT_SENT and getattr(options, field.name) != getattr(plain, field.name)
    }


def _json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value


def _started(
    client: Client, model: str, data: str, out: Path, *, options: ConvertOptions, key: str, progress: RichProgress
) -> Job:
    try:
        return submit(client, model, data=data, options=options, progress=progress, idempotency_key=key)
    except (ClientError, UserError) as error:
        # Of what is refused nothing goes on; whatever else happened, the job may have started.
        if error.kind == "user":
            forget(out)
        raise


def _known(client: Client, job_id: str) -> Job | None:
    try:
        return client.job(job_id)
    except NotFound:
        return None


def _until_it_ends(client: Client, job: Job, out: Path, progress: RichProgress) -> Job:
    try:
        return watch(client, job.id, progress)
    except JobFailed:
        # It has ended: there is nothing to go on with. Whatever else is raised, the job may be waited for again.
        forget(out)
        raise
