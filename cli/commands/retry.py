"""`aslconvert retry`: starts an ended job again."""

from __future__ import annotations

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, write_json


def retry(
    job: options.Job,
    *,
    server: options.Server = None,
    key_file: options.KeyFile = None,
    json: options.Json = False,
) -> None:
    """Start a new job with what JOB was given, which failed, was cancelled or has expired; prints the new one's id."""
    with answer_stream() as stream:
        from aslconvert.cli.remote.outcomes import opened

        with opened(server, key_file) as client:
            made = client.retry(job)
        if json:
            write_json(made, stream)
        else:
            stream.write(f"{made.id}\n")
