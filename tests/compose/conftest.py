"""A deployment's files in a folder of the test's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from deployment import Compose, has, laid


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """A deployment that nothing was done to yet."""
    if not has(["docker", "compose", "version"]):
        pytest.skip("NO DOCKER COMPOSE HERE: what it makes of docker-compose.yml is not tested")
    for name in list(os.environ):
        if name.startswith(("ASLCONVERT_", "COMPOSE_")) or name.endswith("_IMAGE"):
            monkeypatch.delenv(name)
    return laid(tmp_path)
