"""`aslconvert worker`: works off the jobs of a deployment until it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated

import typer

from aslconvert.cli import places
from aslconvert.cli.console import answer_stream, say
from aslconvert.converter.errors import InfrastructureError
from aslconvert.workers.sandbox.limits import FOLDER_BYTES, FOLDER_FILES


def worker(
    *,
    folder: places.Folder = places.DEFAULT_FOLDER,
    database_url: places.DatabaseUrl = None,
    storage: places.Storage = None,
    redis: Annotated[
        str | None,
        typer.Option(
            "--redis",
            metavar="URL",
            envvar="ASLCONVERT_REDIS",
            help="Hear of jobs over Celery and this Redis.",
            show_default="look into the database",
        ),
    ] = None,
    queue: Annotated[
        list[str] | None,
        typer.Option("--queue", metavar="cpu|cuda", help="Which jobs to take; may be given twice.", show_default="cpu"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="cpu|cuda:N,..",
            help="The device of this worker; on several GPUs a job heals in a process each.",
            show_default="cpu",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What attempts call it; unique.", show_default="host and process")
    ] = None,
    lease: Annotated[
        float, typer.Option("--lease", min=1, max=3600, help="Seconds until a silent worker is given up.")
    ] = 30.0,
    job_bytes: Annotated[
        int,
        typer.Option(
            "--job-bytes",
            min=1,
            envvar="ASLCONVERT_JOB_BYTES",
            help="All files of one job together; a job that writes more is ended.",
            show_default="64 GiB",
        ),
    ] = FOLDER_BYTES,
    job_files: Annotated[
        int, typer.Option("--job-files", min=1, envvar="ASLCONVERT_JOB_FILES", help="Likewise, how many there may be.")
    ] = FOLDER_FILES,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            min=1,
            max=65535,
            envvar="ASLCONVERT_METRICS_PORT",
            help="Answer Prometheus here.",
            show_default=False,
        ),
    ] = None,
    metrics_address: Annotated[
        str, typer.Option("--metrics-address", metavar="IP", help="On this address.")
    ] = "127.0.0.1",
    engine: Annotated[str | None, typer.Option("--engine", hidden=True)] = None,
    strict: places.Strict = False,
) -> None:
    """Run jobs one at a time, each in a sandbox. SIGTERM gives the running job back, with its state, and ends."""
    with answer_stream():
        try:
            # Imported here: commands that need no database must not ask for one.
            from aslconvert.cli.working import require_own_network, settings_for
            from aslconvert.workers.gpus import require_gpu
            from aslconvert.workers.logs import set_up_logs
            from aslconvert.workers.metrics import serve_metrics
            from aslconvert.workers.sandbox.limits import Limits
            from aslconvert.workers.settings import Places
            from aslconvert.workers.tracing import set_up_tracing
            from aslconvert.workers.worker import Worker

            if redis is not None:
                from aslconvert.workers.dispatch.celery import make_app, run_worker
        except ModuleNotFoundError as error:
            told = f"A worker needs {error.name}, which is not installed."
            extra = "service" if redis is None else "celery"
            raise InfrastructureError("service_missing", told, hint=f"pip install 'aslconvert[{extra}]'") from error

        set_up_logs()
        set_up_tracing("aslconvert-worker")
        os.umask(0o077)  # models and data of tenants pass through the folder
        queues, gpus, settings = settings_for(
            queues=queue,
            device=device,
            engine=engine,
            strict=strict,
            limits=Limits(folder_bytes=job_bytes, folder_files=job_files),
        )
        for number in gpus:
            gpu = require_gpu(number)
            say(f"aslconvert: jobs are healed on cuda:{number}, {gpu.name}, {gpu.free_mib} MiB free.")
        require_own_network(settings)
        where = Places(folder=folder, database=database_url, storage=storage, redis=redis)
        with where.opened() as (store, blobs):
            one = Worker(
                store, blobs, queues=queues, folder=where.work, settings=settings, lease_seconds=lease, name=name
            )
            if metrics_port is not None:
                serve_metrics(store, address=metrics_address, port=metrics_port)
            if where.redis is not None:
                run_worker(make_app(where.redis), one, queues=queues)
                return
            for number in (signal.SIGTERM, signal.SIGINT):
                # In a thread: the handler may have interrupted the worker at the lock that stopping takes.
                signal.signal(number, lambda *_: threading.Thread(target=one.stop).start())
            one.run()
