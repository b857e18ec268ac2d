"""Runs the `aslconvert` command of this environment, shown as a user would type it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def aslconvert(*arguments: str | Path) -> int:
    """Run it; gives its exit code. Paths inside the project are shown relative to it."""
    given = [str(argument) for argument in arguments]
    shown = [argument.replace(f"{ROOT}/", "") for argument in given]
    print(f"\n$ aslconvert {' '.join(shown)}", flush=True)
    return subprocess.run([str(Path(sys.executable).parent / "aslconvert"), *given], check=False).returncode
