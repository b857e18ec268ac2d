"""Builds the CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer and runs their tests: `make sanitize`.

Each instruction set runs the tests that compare with the reference, and then the fuzz for some seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "sanitize"
LIBRARY = BUILD / "_asl.so"
TESTS = (
    "test_ops_against_reference.py",
    "test_ops_contract.py",
    "test_pointwise_*.py",
    "test_fuzz_properties.py",
    "test_training.py",
)
LEVELS = ("", "x86-64-v3", "x86-64")  # the machine's best first


def runtime() -> str | None:
    """What must be loaded before Python: the sanitizer's library, and the C++ one whose calls it stands before."""
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    names = ("libasan.so", "libstdc++.so")
    paths = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    ]
    # The compiler answers with the bare name where it has no such file.
    return " ".join(paths) if all(Path(path).is_absolute() for path in paths) else None


def build() -> None:
    """Builds the watched library in its own folder.

    Raises:
        subprocess.CalledProcessError: CMake or the compiler failed; both print why.
    """
    configure = [
        "cmake",
        "-S",
        str(ROOT),
        "-B",
        str(BUILD),
        "-DASL_SANITIZE=ON",
        "-DASL_REQUIRE_NATIVE=ON",
        "-DASL_CUDA=OFF",
    ]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_CXX_COMPILER={shutil.which('g++')}"]
    for command in (configure, ["cmake", "--build", str(BUILD), "--parallel"]):
        subprocess.run(command, check=True)


def environment(level: str) -> dict[str, str]:
    """The variables under which Python loads the watched library; memory that cannot be had is an error, not an end."""
    preload = runtime()
    if preload is None:
        raise RuntimeError("g++ has no libasan here; on Debian it comes with g++")
    return {
        **os.environ,
        "LD_PRELOAD": preload,
        "ASLCONVERT_KERNELS": str(LIBRARY),
        "ASLCONVERT_MAX_ISA": level,
        "OMP_NUM_THREADS": "1",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=1024",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }


def check(level: str, *, fuzz_seconds: float, examples: str) -> int:
    """Runs tests and fuzz with one instruction set; 0 where nothing was found."""
    folder = Path(__file__).parent
    tests = sorted(str(path) for pattern in TESTS for path in folder.glob(pattern))
    commands = [
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", examples, *tests],
        [sys.executable, str(folder / "fuzz.py"), "--seconds", str(fuzz_seconds), "--most", "3"],
    ]
    return max(subprocess.run(c, check=False, cwd=ROOT, env=environment(level)).returncode for c in commands)


def main() -> int:
    """Builds, runs every instruction set, tells how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fuzz-seconds", type=float, default=60, help="for each instruction set")
    parser.add_argument("--tests", default="", help="which tests, as for pytest -k; all without it")
    parser.add_argument("--no-build", action="store_true", help="take the library that is there")
    options = parser.parse_args()
    if not options.no_build:
        build()
    worst = 0
    for level in LEVELS:
        start = time.monotonic()
        code = check(level, fuzz_seconds=options.fuzz_seconds, examples=options.tests)
        took = time.monotonic() - start
        sys.stdout.write(f"{level or 'best'}: {'clean' if code == 0 else 'NOT CLEAN'} in {took:.0f} s\n")
        sys.stdout.flush()
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(main())
