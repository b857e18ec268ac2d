"""A deployment's files in a folder of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

from deployment import Compose, has, laid

NET = """
import torch
from torch import nn


def factory():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 3, 3, padding=1),
    )
    return net, (torch.randn(1, 3, 32, 32),)
"""


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """A deployment that nothing was done to yet."""
    if not has(["docker", "compose", "version"]):
        pytest.skip("NO DOCKER COMPOSE HERE: what it makes of docker-compose.yml is not tested")
    for name in list(os.environ):
        if name.startswith(("ASLCONVERT_", "COMPOSE_")) or name.endswith("_IMAGE"):
            monkeypatch.delenv(name)
    return laid(tmp_path)


def export(factory: str, folder: Path) -> None:
    """Write ``folder / model.pt2``."""
    command = [sys.executable, "-m", "aslconvert.cli.main", "export", factory, "-o", "model.pt2"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small network, and numbers for it."""
    import numpy

    folder = tmp_path_factory.mktemp("inputs")
    (folder / "net.py").write_text(NET)
    export("net.py:factory", folder)
    numbers = numpy.random.default_rng(0).standard_normal((64, 3, 32, 32)).astype("float32")
    numpy.savez(folder / "data.npz", input=numbers)
    return folder / "model.pt2", folder / "data.npz"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The trained network of `make demo`, and a few tiles of every split of its photos."""
    import fetch
    import numpy
    import photos

    if not (fetch.ASSETS / "bayer.pth").is_file() or not photos.OUT.is_file():
        pytest.skip("NO DEMOSAICKER OR NO PHOTOS HERE: `make demo` fetches them; only a small network is converted")
    folder = tmp_path_factory.mktemp("demo")
    export(f"{Path(photos.__file__).with_name('demosaicker.py')}:pretrained", folder)
    with numpy.load(photos.OUT) as arrays:
        split = arrays["split"]
        # Every so many, since those beside each other are of one photo.
        taken = [
            at
            for number, count in ((photos.CALIBRATE, 24), (photos.HEAL, 24), (photos.VALIDATE, 8), (photos.TEST, 12))
            for at in numpy.flatnonzero(split == number)[:: int((split == number).sum()) // count][:count]
        ]
        numpy.savez(folder / "photos.npz", **{name: arrays[name][taken] for name in arrays.files})
    return folder / "model.pt2", folder / "photos.npz"
