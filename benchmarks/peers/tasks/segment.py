"""A small U-Net that finds digits and animals pasted on photos, trained here, scored by mean overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peers.tasks.sprites import animals, digits, split_pictures
from peers.tasks.task import CACHE, Task, import_examples, save_arrays
from peers.tasks.train import trained

STEPS, QUICK_STEPS = 2000, 60
BATCH = 16
SEED = 0
SIDE = 64
SAMPLES = (300, 3000, 200, 500)
"""Pictures of each split."""

ANIMALS = (1, 4, 6)
"""Classes of animals that are pasted; with digits and the background that makes five classes of pixels."""

WIDTHS = (24, 48, 96)
OPAQUE = 96
"""Pixels of a silhouette that are this bright or more belong to it."""


class UNet(nn.Module):
    """Image [N, 3, H, W] in 0..1, sides multiples of four -> class scores [N, classes, H, W]."""

    def __init__(self, *, classes: int = 2 + len(ANIMALS), widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        first, second, third = widths
        self.down1, self.down2, self.bottom = _block(3, first), _block(first, second), _block(second, third)
        self.up2, self.up1 = _block(third + second, second), _block(second + first, first)
        self.pool = nn.MaxPool2d(2)
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(first, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.down1(image)
        middle = self.down2(self.pool(fine))
        x = self.bottom(self.pool(middle))
        x = self.up2(torch.cat([self.grow(x), middle], dim=1))
        x = self.up1(torch.cat([self.grow(x), fine], dim=1))
        scores: Tensor = self.head(x)
        return scores


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        layers += [nn.Conv2d(channels, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]
    return nn.Sequential(*layers)


def load(*, quick: bool) -> Task:
    """Trained on the calibrate and heal splits, for at most ``STEPS`` steps.

    Raises:
        InfrastructureError: ``packages_missing``.
    """
    data = CACHE / "segment.npz"
    if not data.is_file():
        save_arrays(data, **compose())
    with np.load(data) as arrays:
        seen = arrays["split"] <= 1
        image, target = torch.from_numpy(arrays["image"][seen]), torch.from_numpy(arrays["target"][seen])
    steps = QUICK_STEPS if quick else STEPS
    torch.manual_seed(SEED)
    net = trained(
        UNet(), image, target, path=CACHE / f"segment-{steps}.pt", steps=steps, batch=BATCH, augment=_mirrored
    )
    return Task(
        name="segment",
        metric="miou",
        net=net,
        example=(torch.zeros(2, 3, SIDE, SIDE),),
        data=data,
        fixed=("head",),
        note=f"U-Net, digits and three kinds of animals on photos, five classes, trained here for {steps} steps",
    )


def compose() -> dict[str, np.ndarray[Any, Any]]:
    """``image`` [N, 3, 64, 64], ``target`` int64 [N, 64, 64], ``group`` and ``split``.

    Pictures, photos and textures of one split appear in no other. Every object takes its texture from another photo,
    so that neither colour nor contrast tells an object from the ground, or one kind from another.
    """
    rng = np.random.default_rng(SEED)
    images, targets, groups, splits = [], [], [], []
    for split, (grounds, sprites) in enumerate(sources()):
        for _ in range(SAMPLES[split]):
            image, target = _scene(grounds, sprites, rng)
            images.append(image)
            targets.append(target)
            groups.append(len(groups))
            splits.append(split)
    return {
        "image": np.stack(images),
        "target": np.stack(targets),
        "group": np.array(groups),
        "split": np.array(splits, dtype=np.int64),
    }


def sources() -> list[tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]]:
    """Of each split: photos [3, H, W] in 0..1, and sprites uint8 [N, 28, 28], digits first and then ``ANIMALS``."""
    import_examples()
    import photos
    from fetch import DEMOSAICKER, fetch

    paths = {path.stem: path for path in fetch(DEMOSAICKER).values() if path.suffix in (".png", ".jpg")}
    training = photos.TRAINING_PHOTOS
    # The photos that calibrate are among those that heal, as the tiles of the demosaicker are.
    names = (training, training, photos.VALIDATION_PHOTOS, photos.TEST_PHOTOS)
    beasts, kinds = animals()
    figures = digits()
    beast_split, figure_split = split_pictures(beasts), split_pictures(figures)
    return [
        (
            [photos.load_photo(paths[name]).numpy() for name in names[split]],
            [figures[figure_split == split]] + [beasts[(beast_split == split) & (kinds == kind)] for kind in ANIMALS],
        )
        for split in range(len(names))
    ]


def _scene(
    grounds: list[np.ndarray[Any, Any]], sprites: list[np.ndarray[Any, Any]], rng: np.random.Generator
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    image = patch(grounds, rng)
    target = np.zeros((SIDE, SIDE), dtype=np.int64)
    for _ in range(rng.integers(2, 5)):
        kind = int(rng.integers(len(sprites)))
        sprite = sprites[kind][rng.integers(len(sprites[kind]))]
        size = int(rng.integers(24, 41))
        rows = np.arange(size) * sprite.shape[0] // size
        mask = sprite[rows][:, rows] >= OPAQUE
        top, left = rng.integers(0, SIDE - size + 1, 2)
        texture = patch(grounds, rng)[:, :size, :size]
        place = np.s_[top : top + size, left : left + size]
        image[(slice(None), *place)] = np.where(mask, texture, image[(slice(None), *place)])
        target[place] = np.where(mask, kind + 1, target[place])
    return image, target


def patch(grounds: list[np.ndarray[Any, Any]], rng: np.random.Generator, *, side: int = SIDE) -> np.ndarray[Any, Any]:
    """A window of some photo [3, side, side], its colours scaled a little so that few photos give many."""
    photo = grounds[rng.integers(len(grounds))]
    top, left = (int(rng.integers(0, size - side + 1)) for size in photo.shape[1:])
    window = photo[:, top : top + side, left : left + side] * rng.uniform(0.5, 1.4, (3, 1, 1))
    return np.clip(window, 0, 1).astype(np.float32)


def _mirrored(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if torch.rand((), generator=generator) < 0.5:
        return images.flip(3), targets.flip(2)
    return images, targets
