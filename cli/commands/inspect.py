"""`aslconvert inspect`: what would be converted and what kept, and why; nothing is written."""

from __future__ import annotations

from typing import Annotated

import typer

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, write_json


def inspect(
    model: options.Model,
    *,
    data: Annotated[str | None, typer.Option("--data", help=options.DATA_HELP, show_default=False)] = None,
    json: options.Json = False,
) -> None:
    """Show what of MODEL would be converted, what kept and why; with --data also what the model would see."""
    with answer_stream() as stream:
        from aslconvert.cli.views import show_inspection
        from aslconvert.converter import pipeline

        report = pipeline.inspect(model, data=data)
        if json:
            write_json(report, stream)
        else:
            show_inspection(report, page(stream))
