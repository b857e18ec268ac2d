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
    "china", "flower", "motorcycle_left", "motorcycle_right", "retina", "hubble_deep_field",
    "camera", "brick", "grass", "gravel",
)  # fmt: skip
VALIDATION_PHOTOS = ("ihc",)
TEST_PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
# Few of the training photos have the colours of the world: each tile is also used in other colours.
_COPIES = 2
_GREY = ("camera", "brick", "grass", "gravel")
# Empty sky and the black around a retina teach nothing: below this spread (0..1 scale) a training tile is left out.
_LEAST_SPREAD = 0.01


def prepare(out: Path = OUT) -> Path:
    """Write ``mosaic`` [N, 3, 128, 128], ``target`` of the same shape, ``group`` and ``split`` to ``out``."""
    photos = {path.stem: path for path in fetch(DEMOSAICKER).values() if path.suffix in (".png", ".jpg")}
    generator = torch.Generator().manual_seed(0)
    tiles: list[Tensor] = []
    groups: list[str] = []
    splits: list[int] = []
    for names, split in ((TRAINING_PHOTOS, HEAL), (VALIDATION_PHOTOS, VALIDATE), (TEST_PHOTOS, TEST)):
        for name in names:
            for tile in cut(load_photo(photos[name])):
                if split == HEAL and float(tile.std(dim=(1, 2)).max()) < _LEAST_SPREAD:
                    continue
                for version in recoloured(tile, generator, grey=name in _GREY) if split == HEAL else (tile,):
                    tiles.append(version)
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


def recoloured(tile: Tensor, generator: torch.Generator, *, grey: bool) -> list[Tensor]:
    """Versions of ``tile`` [3, H, W]: itself where it has colour, and flipped ones in other colours.

    The channels change places, and each is multiplied by a smooth random field. In photos of the world fine detail
    is alike in all channels while colour varies slowly, and that is what these have.
    """
    versions = [] if grey else [tile]
    for _ in range(_COPIES):
        picture = tile[torch.randperm(3, generator=generator)]
        picture = picture.flip([axis for axis in (1, 2) if torch.rand((), generator=generator) < 0.5])
        if torch.rand((), generator=generator) < 0.5:
            picture = picture.transpose(1, 2)
        spread = 0.4 if grey else 0.2
        coarse = spread * (torch.randn(1, 3, 4, 4, generator=generator) + torch.randn(1, 3, 1, 1, generator=generator))
        size = list(tile.shape[1:])
        tint = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)[0].exp()
        picture = picture * tint
        versions.append((picture / picture.max().clamp_min(1.0)).contiguous())
    return versions


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
