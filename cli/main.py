"""The entry point: registers the commands and turns their outcome into an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from aslconvert.cli.commands import (
    admin,
    bench,
    cancel,
    convert,
    delete,
    doctor,
    download,
    export,
    inspect,
    keys,
    retry,
    serve,
    status,
    submit,
    verify,
    wait,
    worker,
)
from aslconvert.cli.failure import EXIT_CODES, EXIT_INTERRUPTED, report_failure, report_interrupt

app = typer.Typer(
    name="aslconvert",
    help="Make a trained PyTorch CNN fast: shift layers and 1x1 convolutions instead of spatial convolutions.",
    epilog=EXIT_CODES,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: importing rich costs more than everything else that --help does.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("export", short_help="Write a model as a .pt2.")(export.export)
app.command("inspect", short_help="Show what would be converted and why.")(inspect.inspect)
app.command("convert", short_help="Make a model faster, prove it and report.")(convert.convert)
app.command("verify", short_help="Reload every artifact and compare.")(verify.verify)
app.command("bench", short_help="Time a model in every runtime.")(bench.bench)
app.command("serve", short_help="Serve the REST API, and run its jobs.")(serve.serve)
app.command("worker", short_help="Work off the jobs of a deployment.")(worker.worker)
app.command("submit", short_help="Start a job on a service.")(submit.submit)
app.command("wait", short_help="Wait until a job has ended.")(wait.wait)
app.command("status", short_help="Show how jobs stand.")(status.status)
app.command("cancel", short_help="Ask a job to stop.")(cancel.cancel)
app.command("retry", short_help="Start an ended job again.")(retry.retry)
app.command("delete", short_help="Delete an ended job and its files.")(delete.delete)
app.command("download", short_help="Fetch what a job wrote, checked.")(download.download)
app.add_typer(keys.app, name="keys", short_help="Make, list and revoke API keys.")
app.add_typer(admin.app, name="admin", short_help="Care for a deployment: backup, checks, workers.")
app.command("doctor", short_help="Show what is built and what is missing.")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # slow to import, and rarely needed

        typer.echo(metadata.version("aslconvert"))
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (default: the process's own) and return the exit code."""
    if not sys.warnoptions:
        # Hints of one library to another about their future are no help to whoever runs a command.
        for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    # Read from the raw words, since a usage error is raised before any option is parsed.
    as_json = "--json" in given
    try:
        outcome = app(args=given, prog_name="aslconvert", standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return report_interrupt(as_json=as_json, resumable="convert" in given)
    except Exception as error:  # noqa: BLE001 -- the last stop before the user: nothing may pass as a bare traceback
        return report_failure(error, as_json=as_json)
    if outcome == EXIT_INTERRUPTED:  # some versions of typer turn the interrupt into this number themselves
        return report_interrupt(as_json=as_json, resumable="convert" in given)
    return outcome if isinstance(outcome, int) else 0


if __name__ == "__main__":
    sys.exit(main())
