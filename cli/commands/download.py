"""`aslconvert download`: fetches what a job wrote, checked, into a folder that `verify` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, write_json


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
        from aslconvert.cli.remote.outcomes import missed, opened
        from aslconvert.service.client import JobFailed

        with opened(server, key_file) as client, RichProgress() as progress:
            found = client.job(job)
            if found.done and found.state != "succeeded":
                raise JobFailed(found)
            paths = fetch(client, found, out, progress=progress)
        if json:
            # One document: that what was asked for was missed, or what is there.
            missed(found)
            write_json({"job": found, "files": paths}, stream)
            return
        console = page(stream)
        for path in paths:
            console.print(f"  {path}", markup=False)
        missed(found)
