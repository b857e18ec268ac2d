"""A copy of what a deployment is started from, with fresh secrets, and the engine where there is one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Compose:
    """`docker compose` in a folder of its own, so that nobody's secrets or volumes are touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: str, check: bool = True, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "compose", *words], cwd=self.folder, capture_output=True, text=True, check=False, timeout=seconds
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"docker compose {' '.join(words)}: {done.stderr[-4000:]}")
        return done

    def init(self, *words: str) -> None:
        subprocess.run(["sh", "docker/init.sh", *words], cwd=self.folder, check=True, capture_output=True)

    def config(self, *words: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.run(*words, "config", "--format", "json").stdout)
        return told


def has(command: Sequence[str]) -> bool:
    """Whether a command is here and works."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


def laid(folder: Path, *, sources: Path = ROOT) -> Compose:
    """What `docker compose` reads, in a new folder, or over an older version's; secrets and `.env` stay."""
    shutil.copy(sources / "docker-compose.yml", folder)
    shutil.copytree(
        sources / "docker",
        folder / "docker",
        ignore=shutil.ignore_patterns("secrets", "__pycache__"),
        dirs_exist_ok=True,
    )
    return Compose(folder)
