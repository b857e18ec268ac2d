"""`aslconvert doctor`: what is built, what this machine offers, what is missing and how to get it."""

from __future__ import annotations

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, write_json


def doctor(*, json: options.Json = False) -> None:
    """Show versions, native kernels, runtimes and devices, and what is missing with how to get it."""
    with answer_stream() as stream:
        from aslconvert.cli.diagnosis import diagnose
        from aslconvert.cli.views import show_diagnosis

        diagnosis = diagnose()
        if json:
            write_json(diagnosis, stream)
        else:
            show_diagnosis(diagnosis, page(stream))
