"""`aslconvert download`: fetches what a job wrote, checked, into a folder that `verify` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, say, write_json
from aslconvert.cli.failure import one_line


def download(
    job: options.Job,
    *,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", show_default=False)],
    server: options.Server = None,
    key_file: options.KeyFile = None,
    json: options.Json = False,
) -> None:
    """Download every file of JOB to a folder, as convert writes it; what is there already is not fetched again."""
    with answer_stream() as stream:
        from aslconvert.cli.progress import RichProgress
        from aslconvert.cli.remote.fetching import fetch
        from aslconvert.cli.remote.outcomes import opened
        from aslconvert.service.client import JobFailed

        with opened(server, key_file) as client, RichProgress() as progress:
            found = client.job(job)
            if found.done and found.state != "succeeded":
                raise JobFailed(found)
            paths = fetch(client, found, out, progress=progress)
        if found.missed is not None:
            # The files are here: what the job was asked for is no matter of theirs.
            say(
                one_line(f"aslconvert: the job missed what was asked of it: {found.missed.message} {found.missed.hint}")
            )
        if json:
            write_json({"job": found, "files": paths}, stream)
            return
        console = page(stream)
        for path in paths:
            console.print(f"  {path}", markup=False)
