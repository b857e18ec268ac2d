"""`aslconvert export`: reads a model in any form, runs the user's own factory here, and writes a .pt2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, write_json


def export(
    model: options.Model,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .pt2 to write.")],
    json: options.Json = False,
) -> None:
    """Write MODEL as a .pt2; a factory returns a module or (module, example inputs)."""
    with answer_stream() as stream:
        from aslconvert.converter.export.write import write_program
        from aslconvert.converter.importers.model import open_model
        from aslconvert.converter.ir.dims import dynamic_axes, shape_notes

        program = open_model(model)
        write_program(program, output)
        answer = {"path": output, "dynamic_axes": dynamic_axes(program), "notes": shape_notes(program)}
        if json:
            write_json(answer, stream)
        else:
            console = page(stream)
            for note in shape_notes(program):
                console.print(note, markup=False)
            console.print(f"wrote {output}", markup=False)
