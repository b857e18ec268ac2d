"""Cuts the example photos into tiles with their Bayer mosaics: the data of the demosaicking demo.

The split is by photo: no picture that fitting or healing sees is used to choose or to judge.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from demosaicker import mosaic
from fetch import DEMOSAICKER, fetch

TILE = 128
OUT = Path(__file__).resolve().parent.parent / ".cache" / "photos.npz"
CALIBRATE, HEAL, VALIDATE, TEST = range(4)
SPLITS = ("calibrate", "heal", "validate", "test")

# Every fifth tile of the training photos is for the least-squares fit, the others are for healing.
_CALIBRATE_EVERY = 5
TRAINING_PHOTOS = (
    "china", "motorcycle_left", "motorcycle_right", "retina", "hubble_deep_field", "camera", "brick", "grass", "gravel",
)  # fmt: skip
VALIDATION_PHOTOS = ("flower", "ihc")
TEST_PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
# Empty sky and the black around a retina teach nothing: below this spread (0..1 scale) a training tile is left out.
_LEAST_SPREAD = 0.01


def prepare(out: Path = OUT) -> Path:
    """Write ``mosaic`` [N, 3, 128, 128], ``target`` of the same shape, ``group`` and ``split`` to ``out``."""
    photos = {path.stem: path for path in fetch(DEMOSAICKER).values() if path.suffix in (".png", ".jpg")}
    tiles: list[Tensor] = []
    groups: list[str] = []
    splits: list[int] = []
    for names, split in ((TRAINING_PHOTOS, HEAL), (VALIDATION_PHOTOS, VALIDATE), (TEST_PHOTOS, TEST)):
        for name in names:
            for tile in cut(load_photo(photos[name])):
                if split == HEAL and float(tile.std(dim=(1, 2)).max()) < _LEAST_SPREAD:
                    continue
                tiles.append(tile)
                groups.append(name)
                turn = sum(s in (CALIBRATE, HEAL) for s in splits)
                splits.append(CALIBRATE if split == HEAL and turn % _CALIBRATE_EVERY == 0 else split)
    target = torch.stack(tiles)
    arrays = {
        "mosaic": mosaic(target).numpy(),
        "target": target.numpy(),
        "group": np.array(groups),
        "split": np.array(splits, dtype=np.int64),
    }
    _save(out, arrays)
    return out


def load_photo(path: Path) -> Tensor:
    """The photo as [3, H, W] in 0..1; a JPEG is halved.

    JPEG stores colour at half the resolution and leaves 8x8 block edges: against such a target a demosaicker is
    punished for being right. Averaging 2x2 pixels gives every pixel a colour of its own again.
    """
    with Image.open(path) as image:
        picture = image.convert("RGB")
        if image.format == "JPEG":
            picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def cut(photo: Tensor) -> list[Tensor]:
    """The fewest tiles [3, TILE, TILE] that cover ``photo``, evenly spaced; neighbours may overlap."""
    _, height, width = photo.shape
    return [photo[:, y : y + TILE, x : x + TILE] for y in _starts(height) for x in _starts(width)]


def summary(path: Path) -> str:
    """Tiles and photos of each split, as lines of text."""
    with np.load(path) as data:
        split, group = data["split"], data["group"]
    lines = []
    for number, name in enumerate(SPLITS):
        photos = dict.fromkeys(group[split == number].tolist())
        lines.append(f"{name:10} {int((split == number).sum()):4} tiles of {', '.join(photos)}")
    return "\n".join(lines)


def _starts(length: int) -> list[int]:
    count = -(-length // TILE)
    return [round(i * (length - TILE) / max(1, count - 1)) for i in range(count)]


def _save(out: Path, arrays: Mapping[str, np.ndarray]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial.npz")
    # Stored plain, so that readers can map it into memory.
    np.savez(partial, **arrays)
    os.replace(partial, out)


if __name__ == "__main__":
    print(summary(prepare()))
