"""A ResNet-20 of CIFAR's size, trained here on animal silhouettes, scored by top-1 accuracy."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from peers.tasks.sprites import animals, split_pictures
from peers.tasks.task import CACHE, SPLITS, Task, save_arrays
from peers.tasks.train import moved, trained

STEPS, QUICK_STEPS = 800, 60
BATCH = 64
SEED = 0


def network() -> nn.Module:
    """pytorchcv's ResNet-20 for one channel of 28x28 pixels: the last map is 7x7 instead of 8x8."""
    from pytorchcv.models.resnet_cifar import resnet20_cifar10

    torch.manual_seed(SEED)
    net: nn.Module = resnet20_cifar10(in_channels=1, in_size=(28, 28))
    net.features.final_pool = nn.AvgPool2d(kernel_size=7, stride=1)
    return net


def load(*, quick: bool) -> Task:
    """Trained on the calibrate and heal splits, for at most ``STEPS`` steps.

    Raises:
        InfrastructureError: ``packages_missing``.
    """
    pictures, labels = animals()
    split = split_pictures(pictures)
    x = (pictures.astype(np.float32) / 255 - 0.5)[:, None]
    data = CACHE / "animals.npz"
    if not data.is_file():
        save_arrays(data, x=x, label=labels, split=split)
    seen = split <= SPLITS.index("heal")
    steps = QUICK_STEPS if quick else STEPS
    net = trained(
        network(),
        torch.from_numpy(x[seen]),
        torch.from_numpy(labels[seen]),
        path=CACHE / f"animals-{steps}.pt",
        steps=steps,
        batch=BATCH,
        augment=moved,
        seed=SEED,
    )
    return Task(
        name="animals",
        metric="top1",
        net=net,
        example=(torch.zeros(2, 1, 28, 28),),
        data=data,
        fixed=("output",),
        note=f"ResNet-20 on 28x28 silhouettes, trained here for {steps} steps",
    )
