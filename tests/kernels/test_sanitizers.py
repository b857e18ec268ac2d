"""The CPU kernels under AddressSanitizer and UBSan, every instruction set: a short form of `make sanitize`."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import aslconvert.kernels

FOLDER = Path(__file__).parent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_sanitize", FOLDER / "sanitize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sanitize = _load()
pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # the kernels are compiled once more
    pytest.mark.skipif(
        sanitize.runtime() is None or shutil.which("cmake") is None,
        reason="needs g++ with libasan, and CMake, on Linux",
    ),
]
BEST = aslconvert.kernels.build_info().get("isa", "")
LOWER = [level for level in ("x86-64-v3", "x86-64") if level < BEST]
LEVELS = [("", BEST), *(pytest.param(level, level, marks=pytest.mark.deep) for level in LOWER)]


@pytest.fixture(scope="module")
def watched() -> Path:
    """The library, built with the sanitizers."""
    sanitize.build()
    library: Path = sanitize.LIBRARY
    return library


def _run(level: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], env=sanitize.environment(level), capture_output=True, text=True, check=False
    )


def test_the_library_is_watched_and_a_bad_access_ends_the_process(watched: Path) -> None:
    assert b"__asan_report_load" in watched.read_bytes()
    assert b"__ubsan_handle" in watched.read_bytes()
    code = "import ctypes; big = bytes(8192); ctypes.memmove(ctypes.create_string_buffer(4096), big, 8192)"
    done = _run("", "-c", code)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(("level", "name"), LEVELS)
def test_random_problems_are_clean(level: str, name: str) -> None:
    done = _run(level, str(FOLDER / "cases.py"))
    assert (done.returncode, done.stdout.strip()) == (0, f"native {name}"), done.stderr[-4000:]


@pytest.mark.usefixtures("watched")
def test_random_calls_are_clean() -> None:
    done = _run("", str(FOLDER / "fuzz.py"), "--calls", "200", "--seconds", "120", "--most", "1")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert f"'isa': '{BEST}'" in done.stdout
