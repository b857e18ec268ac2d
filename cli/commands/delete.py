"""`aslconvert delete`: deletes an ended job and what came of it."""

from __future__ import annotations

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, write_json


def delete(
    job: options.Job,
    *,
    server: options.Server = None,
    key_file: options.KeyFile = None,
    json: options.Json = False,
) -> None:
    """Delete JOB, which has ended, with its events, report and files; model and data stay."""
    with answer_stream() as stream:
        from aslconvert.cli.remote.outcomes import opened

        with opened(server, key_file) as client:
            client.delete_job(job)
        if json:
            write_json({"deleted": job}, stream)
        else:
            stream.write(f"deleted {job}\n")
