"""Every failure is one clear line, or one JSON document, and its documented exit code."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from aslconvert.cli import failure
from aslconvert.cli.main import main
from aslconvert.converter import errors

CODES = [
    (errors.UsageError, 2),
    (errors.ModelRefused, 3),
    (errors.NothingToConvert, 4),
    (errors.TargetNotReached, 5),
    (errors.VerificationFailed, 6),
    (errors.InfrastructureError, 70),
    (errors.InternalError, 71),
]


@pytest.mark.parametrize(("error", "code"), CODES)
def test_each_error_has_its_exit_code(
    error: type[errors.AslconvertError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure.report_failure(error("some_code", "What\nhappened.", hint="Do this."), as_json=False) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "aslconvert: error [some_code]: What happened. Do this.\n"


@pytest.mark.parametrize(("error", "code"), CODES)
def test_json_errors_are_one_document_on_stdout(
    error: type[errors.AslconvertError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failure.report_failure(error("some_code", "What.", hint="Do."), as_json=True) == code
    captured = capsys.readouterr()
    expected = {"code": "some_code", "kind": error.kind, "message": "What.", "hint": "Do."}
    assert json.loads(captured.out) == {"error": expected}
    assert captured.err == ""


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 70, "disk_full"),
        (PermissionError(errno.EACCES, "Permission denied"), 70, "not_writable"),
        (MemoryError(), 70, "out_of_memory"),
        (ZeroDivisionError("oops"), 71, "unexpected"),
    ],
)
def test_foreign_errors_are_classified(error: Exception, code: int, name: str) -> None:
    known = failure.classify(error)
    assert (known.exit_code, known.code) == (code, name)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["convert", "model.pt2"], "usage"),
        (["convert", "model.pt2", "--data", "d", "--out", "o", "--seed", "many"], "usage"),
        (["nonsense"], "usage"),
        (["convert", "m.pt2", "--data", "d", "--out", "o", "--budget", "soon"], "bad_duration"),
        (["convert", "m.pt2", "--data", "d", "--out", "o", "--heal-crop", "63/2"], "bad_crop"),
        (["convert", "m.pt2", "--data", "d", "--out", "o", "--max-drop", "1", "--min-speedup", "2"], "two_targets"),
        (["bench", "m.pt2", "--shape", "1,3"], "bad_shape"),
    ],
)
def test_usage_errors_leave_with_2(arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"aslconvert: error [{code}]: ")
    assert captured.err.count("\n") == 1


def test_interruption_leaves_with_130_and_names_resume() -> None:
    code = """
import signal, sys
from aslconvert.cli import main as entry
from aslconvert.cli.commands import convert
def interrupted(text):
    signal.raise_signal(signal.SIGINT)
convert.parse_duration = interrupted
sys.exit(entry.main(["convert", "m.pt2", "--data", "d", "--out", "o"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 130
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_model_leaves_with_3(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path / "none.pt2"), "--json"]) == 3
    assert json.loads(capfd.readouterr().out)["error"]["code"] == "not_found"
