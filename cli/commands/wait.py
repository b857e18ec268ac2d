"""`aslconvert wait`: waits until a job has ended, over connections that break."""

from __future__ import annotations

from typing import Annotated

import typer

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, say, write_json
from aslconvert.converter.options import parse_duration


def wait(
    job: options.Job,
    *,
    timeout: Annotated[
        str | None,
        typer.Option(
            "--timeout", metavar="10m", help="Leave with 75 after so long; the job goes on.", show_default=False
        ),
    ] = None,
    server: options.Server = None,
    key_file: options.KeyFile = None,
    json: options.Json = False,
) -> None:
    """Wait until JOB has ended and show its progress; the exit code is that of the same run here."""
    seconds = None if timeout is None else parse_duration(timeout)
    with answer_stream() as stream:
        from aslconvert.cli.progress import RichProgress
        from aslconvert.cli.remote.outcomes import missed, opened
        from aslconvert.cli.remote.views import result_line, show_job
        from aslconvert.cli.remote.watching import watch

        with opened(server, key_file) as client, RichProgress() as progress:
            ended = watch(client, job, progress, timeout=seconds)
            came = result_line(client, ended)
        say(f"aslconvert: {came}")
        missed(ended)
        if json:
            write_json(ended, stream)
        else:
            show_job(ended, page(stream))
