"""A ResNet-20 of CIFAR's size, trained here to tell emoji by their nine categories, scored by top-1 accuracy.

An emoji is in one split with all its pictures, so that a test picture shows something that training never drew. Of an
emoji in several skin colours the uncoloured picture is taken: people are then a fifth, not two thirds.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from peers.tasks.npm import fetch
from peers.tasks.task import CACHE, SPLITS, Task, save_arrays
from peers.tasks.train import trained

PACKAGES = {
    "twitter": ("emoji-datasource-twitter@16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"),
    "google": ("emoji-datasource-google@16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"),
}
"""By vendor: the package (MIT), and the SHA-256 of its archive."""

CATEGORIES = (
    "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion",
    "Symbols", "Travel & Places",
)  # fmt: skip

SIDE = 32
SHARES = (0.15, 0.45, 0.15, 0.25)
"""Of the identities to each split: a tenth more to test on than usual, since there are few."""

STEPS, QUICK_STEPS = 1000, 60
BATCH = 64
SEED = 0


def network() -> nn.Module:
    """pytorchcv's ResNet-20 as it is for CIFAR, three channels of 32x32 pixels, with nine classes instead of ten."""
    from pytorchcv.models.resnet_cifar import resnet20_cifar10

    torch.manual_seed(SEED)
    net: nn.Module = resnet20_cifar10()
    net.output = nn.Linear(net.output.in_features, len(CATEGORIES))
    return net


def load(*, quick: bool) -> Task:
    """Trained on the calibrate and heal splits, for at most ``STEPS`` steps.

    Raises:
        InfrastructureError: ``packages_missing``, where npm is not there or gives no such package.
    """
    data = CACHE / "emoji.npz"
    if not data.is_file():
        with tempfile.TemporaryDirectory() as folder:
            save_arrays(data, **gather({vendor: fetch(*PACKAGES[vendor], Path(folder)) for vendor in PACKAGES}))
    with np.load(data) as arrays:
        seen = arrays["split"] <= SPLITS.index("heal")
        images, labels = torch.from_numpy(arrays["x"][seen]), torch.from_numpy(arrays["label"][seen])
    steps = QUICK_STEPS if quick else STEPS
    net = trained(
        network(), images, labels, path=CACHE / f"emoji-{steps}.pt", steps=steps, batch=BATCH, augment=varied, seed=SEED
    )
    return Task(
        name="emoji",
        metric="top1",
        net=net,
        example=(torch.zeros(2, 3, SIDE, SIDE),),
        data=data,
        fixed=("output",),
        note=f"ResNet-20 on emoji of two vendors, nine categories, split by emoji, trained here for {steps} steps",
    )


def gather(archives: dict[str, Path]) -> dict[str, np.ndarray[Any, Any]]:
    """``x`` float32 [N, 3, 32, 32], zero where nothing is drawn, ``label``, ``group`` (the identity) and ``split``.

    archives: by vendor, a ``.tgz`` with ``emoji.json`` and ``img/<vendor>/64/*.png``.
    """
    pictures, labels, groups, splits = [], [], [], []
    for vendor, archive in archives.items():
        with tarfile.open(archive) as packed:
            members = {member.name.partition("/")[2]: member for member in packed.getmembers() if member.isfile()}
            for entry in json.loads(_read(packed, members["emoji.json"])):
                member = members.get(f"img/{vendor}/64/{entry['image']}")
                if entry["category"] in CATEGORIES and member is not None:
                    pictures.append(_picture(_read(packed, member)))
                    labels.append(CATEGORIES.index(entry["category"]))
                    groups.append(entry["unified"])
                    splits.append(split_of(entry["unified"]))
    return {
        "x": np.stack(pictures),
        "label": np.array(labels, dtype=np.int64),
        "group": np.unique(groups, return_inverse=True)[1],
        "split": np.array(splits, dtype=np.int64),
    }


def split_of(identity: str) -> int:
    """The split (0 to 3) of an emoji, by the hash of its code points: the same for all vendors."""
    fraction = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    return int(np.searchsorted(np.cumsum(SHARES)[:-1], fraction, side="right"))


def _read(packed: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = packed.extractfile(member)
    return b"" if file is None else file.read()


def _picture(content: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(content)) as image:
        colours = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    # On middle grey, which is zero: white and black emoji both show.
    drawn = (colours[..., :3] - 0.5) * colours[..., 3:]
    scale = len(drawn) // SIDE
    return drawn.reshape(SIDE, scale, SIDE, scale, 3).mean((1, 3)).transpose(2, 0, 1)


def varied(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image mirrored, turned by up to 20 degrees, scaled and moved by up to 15 %, its colours by up to 20 %."""
    count = len(images)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    angle, scale = between(-0.35, 0.35), between(0.85, 1.15)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack([
        torch.stack([cosine * mirror, -sine, between(-0.15, 0.15)], 1),
        torch.stack([sine * mirror, cosine, between(-0.15, 0.15)], 1),
    ], 1)  # fmt: skip
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    return moved * between(0.8, 1.2, 3, 1, 1), labels
