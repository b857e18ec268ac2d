"""The command line answers quickly: help loads neither torch nor the other heavy libraries."""

import statistics
import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "scipy", "rich.console")
COMMANDS = (
    "export", "inspect", "convert", "verify", "bench", "doctor", "worker", "serve", "submit", "wait", "status",
    "cancel", "download", "keys",
)  # fmt: skip
HELP_OVER_BARE_INTERPRETER = 25  # about 8 here; torch alone would make it 100 or more


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], *[[name, "--help"] for name in COMMANDS]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from aslconvert.cli.main import main
code = main({arguments!r})
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else code)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "Usage: aslconvert" in done.stdout


def test_help_costs_little_more_than_the_interpreter() -> None:
    bare, helping = [], []
    for _ in range(3):
        for code, into in (("pass", bare), ("from aslconvert.cli.main import main; main(['--help'])", helping)):
            start = time.perf_counter()
            run_python(code)
            into.append(time.perf_counter() - start)
    assert statistics.median(helping) < HELP_OVER_BARE_INTERPRETER * statistics.median(bare)


def test_help_names_every_exit_code() -> None:
    done = run_python("from aslconvert.cli.main import main; main([])")
    words = done.stdout.split("Exit codes:")[1].split()
    assert [word for word in words if word.isdigit()] == ["0", "2", "3", "4", "5", "6", "70", "71", "75", "130"]
