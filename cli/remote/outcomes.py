"""What the server says of a job in the words of a local run: the same errors, so the same exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aslconvert.cli.console import say
from aslconvert.cli.failure import EXIT_INTERRUPTED, EXIT_WAITING, one_line
from aslconvert.converter.errors import (
    AslconvertError,
    InfrastructureError,
    InternalError,
    ModelRefused,
    NothingToConvert,
    TargetNotReached,
    UsageError,
    UserError,
    VerificationFailed,
)
from aslconvert.service.client import (
    Client,
    ClientError,
    DamagedDownload,
    Job,
    JobFailed,
    Retry,
    Unauthorized,
    UploadFailed,
    WaitTimeout,
)

REFUSED = frozenset({
    "architecture_failed", "bad_graph", "bad_spec", "dynamic_value", "export_failed", "external_data",
    "factory_failed", "no_example", "not_a_model", "not_found", "nothing_to_prune", "pruned_graph_differs",
    "pruning_without_effect", "too_large", "train_mode", "truncated", "unknown_architecture", "unsupported_attribute",
    "unsupported_function", "unsupported_operator", "unsupported_opset", "unsupported_type", "untraceable",
    "weights_mismatch", "weights_not_found", "weights_unreadable",
})  # fmt: skip
"""Codes with which the converter refuses a model; a test holds them against its source."""

NOT_REACHED = frozenset({"accuracy_not_reached", "does_not_pay", "limits_not_reached", "speedup_not_reached"})
NOTHING = frozenset({"nothing_to_convert"})


_NO_KEY = "No key was shown: there was none in --key-file, in ASLCONVERT_KEY or in the folder of serve."


class Ended(UserError):
    """The job was cancelled or has expired."""

    exit_code = EXIT_INTERRUPTED


class StillWaiting(UserError):
    """The time to wait is over, the job is not."""

    exit_code = EXIT_WAITING


def error_of(error: ClientError) -> AslconvertError:
    """The project's own error for one of the client."""
    if isinstance(error, JobFailed) and error.job.state in ("cancelled", "expired"):
        return _made(Ended, error)
    if isinstance(error, WaitTimeout):
        return _made(StillWaiting, error)
    if isinstance(error, DamagedDownload):
        return _made(VerificationFailed, error)
    if error.kind == "infrastructure":
        return _made(InfrastructureError, error)
    if error.kind == "internal":
        return _made(InternalError, error)
    if isinstance(error, JobFailed):
        for codes, kind in ((NOTHING, NothingToConvert), (NOT_REACHED, TargetNotReached), (REFUSED, ModelRefused)):
            if error.code in codes:
                return _made(kind, error)
    return _made(UsageError, error)


def model_refused(error: UploadFailed) -> AslconvertError:
    """The error of a model that was sent and not taken."""
    return _made(ModelRefused, error) if error.kind == "user" else error_of(error)


def missed(job: Job) -> None:
    """Raise TargetNotReached for a job whose best variant is not what was asked for."""
    if job.missed is not None:
        raise TargetNotReached(job.missed.code, job.missed.message, hint=job.missed.hint)


@contextmanager
def opened(address: str | None, key_file: Path | None) -> Iterator[Client]:
    """A client whose errors leave as the project's own."""
    of = ""
    try:
        with Client(address, key_file=key_file, retry=Retry(waiting=_waiting)) as client:
            found = client.connection
            of = f"The key shown was from {found.key_from}." if found.key else _NO_KEY
            yield client
    except Unauthorized as error:
        told = error_of(error)
        told.hint = f"{told.hint} {of}".strip()
        raise told from error
    except ClientError as error:
        raise error_of(error) from error


def _waiting(error: ClientError, seconds: float) -> None:
    # At once: a server that is down looks like a command that hangs otherwise.
    say(one_line(f"aslconvert: waiting for the server, for {seconds:.0f} s at most: {error.message}"))


def _made(kind: type[AslconvertError], error: ClientError) -> AslconvertError:
    return kind(error.code, error.message, hint=error.hint)
