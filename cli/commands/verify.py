"""`aslconvert verify`: reloads every artifact of a folder in a fresh process and compares."""

from __future__ import annotations

from aslconvert.cli import options
from aslconvert.cli.console import answer_stream, page, write_json


def verify(folder: options.Folder, *, json: options.Json = False) -> None:
    """Reload every artifact in DIR in a fresh process and compare its outputs with the stored ones."""
    with answer_stream() as stream:
        from aslconvert.cli.views import show_verification
        from aslconvert.converter.export.verify import verify_dir

        results = verify_dir(folder)
        if json:
            write_json({"artifacts": results}, stream)
        else:
            show_verification(results, page(stream))
