"""Trains a task's network in a bounded number of steps, once: its weights are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from peers.tasks.task import Loss

RATE = 2e-3
WEIGHT_DECAY = 1e-2
WARM_SHARE = 0.1


def trained(
    net: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    path: Path,
    steps: int,
    batch: int,
    augment: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = None,
    loss: Loss = nn.functional.cross_entropy,
    seed: int = 0,
) -> nn.Module:
    """``net`` in eval mode with the weights at ``path``, trained on images [N, ...] and classes where there are none.

    targets: int64 [N], or [N, H, W] a pixel, or whatever ``loss`` (outputs, targets) is given. AdamW, one cycle of the
    rate, cross entropy by default.
    """
    if path.is_file():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=WARM_SHARE)
    net.train()
    for step in range(steps):
        index = torch.randint(len(images), (batch,), generator=generator)
        x, y = images[index], targets[index]
        if augment is not None:
            x, y = augment(x, y, generator)
        error = loss(net(x), y)
        optimiser.zero_grad(set_to_none=True)
        error.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"  training: step {step + 1} of {steps}, loss {error.item():.3f}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    torch.save(net.state_dict(), partial)
    os.replace(partial, path)
    return net.eval()


def moved(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image [N, C, H, W] rolled by up to two pixels and mirrored at random; classes [N] stay."""
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    images = images.roll(shift, (2, 3))
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, images.flip(3), images), targets
