"""`aslconvert cancel`: asks a job to stop."""

from __future__ import annotations

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, write_json


def cancel(
    job: options.Job,
    *,
    server: options.Server = None,
    key_file: options.KeyFile = None,
    json: options.Json = False,
) -> None:
    """Ask JOB to stop; it does within seconds. Asking twice is the same."""
    with answer_stream() as stream:
        from aslconvert.cli.remote.outcomes import opened
        from aslconvert.cli.remote.views import show_job

        with opened(server, key_file) as client:
            found = client.cancel(job)
        if json:
            write_json(found, stream)
        else:
            show_job(found, page(stream))
