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
    keep: options.Keep = None,
    size: options.Size = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    channels: options.Channels = None,
    json: options.Json = False,
) -> None:
    """Show what of MODEL would be converted, what kept and why; with --data also what the model would see."""
    prepared = options.preparation(size=size, scale=scale, mean=mean, std=std, channels=channels)
    with answer_stream() as stream:
        from aslconvert.cli.views import show_inspection
        from aslconvert.converter import inspection
        from aslconvert.converter.options import ConvertOptions

        chosen = ConvertOptions(keep=tuple(keep or ()), **prepared)
        report = inspection.inspect(model, data=data, options=chosen)
        if json:
            write_json(report, stream)
        else:
            show_inspection(report, page(stream))
