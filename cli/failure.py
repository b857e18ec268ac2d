"""Turns whatever went wrong into one clear line, or one JSON document, and the documented exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback

import typer

from aslconvert.cli.console import say, write_json
from aslconvert.converter.errors import AslconvertError, InfrastructureError, InternalError, UsageError

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells count it."""

EXIT_WAITING = 75
"""sysexits' EX_TEMPFAIL: the same command may succeed later."""

TRACEBACK_VARIABLE = "ASLCONVERT_TRACEBACK"
"""Set to 1, every failure also prints where it happened."""

EXIT_CODES = """\
Exit codes: 0 done; 2 usage; 3 the model was refused; 4 nothing could be converted; 5 the asked accuracy or speed
could not be reached (the best found is written and named); 6 verification failed; 70 disk, memory or a missing part;
71 a defect of this program; 75 the job goes on when the time to wait is over; 130 interrupted (resumable) or
cancelled."""

# Typer is free to bring its own copy of click, so its exception base is found through the class it exports.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]

_KINDS: dict[str, type[AslconvertError]] = {
    "user": UsageError,
    "infrastructure": InfrastructureError,
    "internal": InternalError,
}


def classify(error: BaseException) -> AslconvertError:
    """The project's own error for ``error``."""
    if isinstance(error, AslconvertError):
        return error
    if (kind := _KINDS.get(getattr(error, "kind", ""))) is not None:
        # An error of the workers' rooms, which not every installation can import.
        return kind(
            str(getattr(error, "code", "unexpected")),
            str(getattr(error, "message", error)),
            hint=str(getattr(error, "hint", "")),
        )
    if isinstance(error, _CommandLineError):
        return UsageError("usage", error.format_message(), hint="See aslconvert --help.")  # type: ignore[attr-defined]
    if isinstance(error, ModuleNotFoundError) and error.name == "httpx":
        told = "Commands that talk to a service need httpx, which is not installed."
        return InfrastructureError("client_missing", told, hint="pip install 'aslconvert[client]'")
    if isinstance(error, MemoryError):
        return InfrastructureError("out_of_memory", "The memory did not suffice.", hint="Use smaller samples.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InfrastructureError("disk_full", f"No space left: {error}.", hint="Free some space and run again.")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return InfrastructureError("not_writable", f"{error}.", hint="Choose a folder you may write.")
    if isinstance(error, OSError) and error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return UsageError("path", f"{error}.", hint="A path names a file for a folder.")
    return InternalError(
        "unexpected",
        f"{type(error).__name__}: {error}",
        hint=f"This is a defect: please report it with what {TRACEBACK_VARIABLE}=1 prints.",
    )


def report_failure(error: BaseException, *, as_json: bool) -> int:
    """Tell the user about ``error`` and return the exit code."""
    if os.environ.get(TRACEBACK_VARIABLE) == "1":
        traceback.print_exception(error)
    known = classify(error)
    if as_json:
        body = {"code": known.code, "kind": known.kind, "message": known.message, "hint": known.hint}
        write_json({"error": body}, sys.stdout)
    else:
        say(one_line(f"aslconvert: error [{known.code}]: {known.message} {known.hint}"))
    return known.exit_code


def report_interrupt(*, as_json: bool, resumable: bool) -> int:
    """Tell the user that the run was interrupted and how it goes on; returns the exit code."""
    hint = "Run the same command with --resume to go on where it stopped." if resumable else ""
    if as_json:
        body = {"code": "interrupted", "kind": "user", "message": "Interrupted.", "hint": hint}
        write_json({"error": body}, sys.stdout)
    else:
        say(one_line(f"aslconvert: interrupted. {hint}"))
    return EXIT_INTERRUPTED


def one_line(text: str) -> str:
    """``text`` without line breaks, so that a log keeps one record a failure."""
    return " ".join(text.split())
