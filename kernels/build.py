"""Builds the native kernels in place for development: `python -m aslconvert.kernels.build`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Runs CMake in build/dev of the source tree and puts `_asl.so` beside this file; returns CMake's exit code."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "CMakeLists.txt").exists():
        print("aslconvert: this is an installed package, not a source tree; nothing to build", file=sys.stderr)
        return 2
    cmake = shutil.which("cmake")
    if cmake is None:
        print("aslconvert: cmake is not installed", file=sys.stderr)
        return 2
    folder = root / "build" / "dev"
    configure = [cmake, "-S", str(root), "-B", str(folder), "-DASL_IN_TREE=ON", "-DASL_REQUIRE_NATIVE=ON"]
    configure.append(f"-DPython_EXECUTABLE={sys.executable}")
    for command in (configure, [cmake, "--build", str(folder), "--parallel"]):
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
