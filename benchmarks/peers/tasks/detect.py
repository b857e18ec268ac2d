"""A small detector that finds digits and animals pasted on photos, trained here, scored by the mean F1 of an image.

The score is the project's own kind of metric, ``file.py:function`` with a score a sample: F1 at an overlap of a half.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peers.tasks import boxes
from peers.tasks.segment import ANIMALS, OPAQUE, patch, sources
from peers.tasks.task import CACHE, Task, save_arrays
from peers.tasks.train import trained

STEPS, QUICK_STEPS = 1500, 60
BATCH = 16
SEED = 0
SIDE = 96
SAMPLES = (300, 1700, 150, 400)
"""Pictures of each split."""

MOST_OBJECTS = 5
CROWDED = 0.1
"""Overlap of two objects at most: what is hidden cannot be found."""

WIDTHS = (24, 48, 96)
RARE = -2.2
"""Heat before the sigmoid at the start: a cell in ten."""


class Detector(nn.Module):
    """Image [N, 3, H, W] in 0..1 -> heat [N, classes, H/8, W/8] and boxes [N, 4, H/8, W/8]; see ``boxes``."""

    def __init__(self, *, classes: int = 1 + len(ANIMALS), widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        first, second, third = widths
        self.backbone = nn.Sequential(
            _layer(3, first, stride=2), _layer(first, first),
            _layer(first, second, stride=2), _layer(second, second),
            _layer(second, third, stride=2), _layer(third, third), _layer(third, third), _layer(third, third),
        )  # fmt: skip
        self.heat, self.boxes = nn.Conv2d(third, classes, 1), nn.Conv2d(third, 4, 1)
        # A start that says how rare objects are keeps the focal loss from drowning in empty cells.
        if self.heat.bias is not None:
            nn.init.constant_(self.heat.bias, RARE)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.backbone(image)
        return self.heat(x), self.boxes(x)


def _layer(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def load(*, quick: bool) -> Task:
    """Trained on the calibrate and heal splits, for at most ``STEPS`` steps.

    Raises:
        InfrastructureError: ``packages_missing``.
    """
    data = CACHE / "detect.npz"
    if not data.is_file():
        save_arrays(data, **compose())
    with np.load(data) as arrays:
        seen = arrays["split"] <= 1
        image, target = torch.from_numpy(arrays["image"][seen]), torch.from_numpy(arrays["target"][seen])
    steps = QUICK_STEPS if quick else STEPS
    torch.manual_seed(SEED)
    net = trained(
        Detector(),
        image,
        target,
        path=CACHE / f"detect-{steps}.pt",
        steps=steps,
        batch=BATCH,
        augment=mirrored,
        loss=boxes.loss,
    )
    return Task(
        name="detect",
        metric=f"{Path(boxes.__file__)}:{boxes.mean_f1.__name__}",
        net=net,
        example=(torch.zeros(2, 3, SIDE, SIDE),),
        data=data,
        fixed=("heat", "boxes"),
        loss=boxes.loss,
        note=f"eight 3x3 convolutions, digits and three kinds of animals on photos, trained here for {steps} steps; "
        "mean F1 of an image at an overlap of 0.5",
    )


def compose() -> dict[str, np.ndarray[Any, Any]]:
    """``image`` [N, 3, 96, 96], ``target`` float32 [N, 5, 5] of (class or -1, left, top, right, bottom), ``group``
    and ``split``; what is said of the pictures of ``segment`` holds for these."""
    rng = np.random.default_rng(SEED)
    images, targets, splits = [], [], []
    for split, (grounds, sprites) in enumerate(sources()):
        for _ in range(SAMPLES[split]):
            image, target = _scene(grounds, sprites, rng)
            images.append(image)
            targets.append(target)
            splits.append(split)
    return {
        "image": np.stack(images),
        "target": np.stack(targets),
        "group": np.arange(len(images)),
        "split": np.array(splits, dtype=np.int64),
    }


def _scene(
    grounds: list[np.ndarray[Any, Any]], sprites: list[np.ndarray[Any, Any]], rng: np.random.Generator
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    image = patch(grounds, rng, side=SIDE)
    found: list[list[float]] = []
    for _ in range(rng.integers(2, MOST_OBJECTS + 1)):
        kind = int(rng.integers(len(sprites)))
        sprite = sprites[kind][rng.integers(len(sprites[kind]))]
        size = int(rng.integers(24, 49))
        rows = np.arange(size) * sprite.shape[0] // size
        mask = sprite[rows][:, rows] >= OPAQUE
        if not mask.any():
            continue
        top, left = rng.integers(0, SIDE - size + 1, 2)
        high, wide = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = [
            float(kind),
            *(float(n) for n in (left + wide[0], top + high[0], left + wide[-1] + 1, top + high[-1] + 1)),
        ]
        if found and float(boxes.overlaps(torch.tensor([box])[:, 1:], torch.tensor(found)[:, 1:]).max()) > CROWDED:
            continue
        place = np.s_[:, top : top + size, left : left + size]
        image[place] = np.where(mask, patch(grounds, rng, side=SIDE)[:, :size, :size], image[place])
        found.append(box)
    target = np.full((MOST_OBJECTS, 5), -1, dtype=np.float32)
    if found:
        target[: len(found)] = found
    return image, target


def mirrored(images: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images [N, 3, H, W] and their boxes [N, M, 5], mirrored half of the time, in colours that vary a little."""
    images = images * (0.8 + 0.4 * torch.rand(len(images), 3, 1, 1, generator=generator))
    if torch.rand((), generator=generator) < 0.5:
        wide = images.shape[3]
        kind, left, top, right, bottom = target.unbind(2)
        return images.flip(3), torch.stack([kind, wide - right, top, wide - left, bottom], 2)
    return images, target
