"""`aslconvert status`: how a job stands, or a list of jobs."""

from __future__ import annotations

import itertools
from typing import Annotated

import typer

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, write_json


def status(
    job: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="One job; without it the newest.", show_default=False)
    ] = None,
    *,
    state: Annotated[str | None, typer.Option("--state", help="Only jobs in this state.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many jobs.")] = 20,
    server: options.Server = None,
    key_file: options.KeyFile = None,
    json: options.Json = False,
) -> None:
    """Show how JOB stands, or the newest jobs. The exit code tells whether that could be found out, no more."""
    with answer_stream() as stream:
        from aslconvert.cli.remote.outcomes import opened
        from aslconvert.cli.remote.views import show_job, show_jobs

        with opened(server, key_file) as client:
            if job is not None:
                found = client.job(job)
                if json:
                    write_json(found, stream)
                else:
                    show_job(found, page(stream))
                return
            several = list(itertools.islice(client.jobs(state=state), limit))
        if json:
            write_json({"jobs": several}, stream)
        else:
            show_jobs(several, page(stream))
