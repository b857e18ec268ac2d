"""The jobs of `benchmarks/service.py`: so much work on one core, told four times a second, or a real conversion."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CHUNK = b"x" * (1 << 20)


def run(*, kind: str, payload: Mapping[str, Any], folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """Hash ``heal_steps`` megabytes; the seconds that took are the forecast."""
    rounds = int(payload["options"]["heal_steps"])
    (folder / "out").mkdir(exist_ok=True)
    tell("stage", stage="hash")
    begun = told = time.monotonic()
    for number in range(rounds):
        hashlib.sha256(CHUNK).digest()
        if time.monotonic() - told >= 0.25:
            told = time.monotonic()
            tell("progress", done=number + 1, total=rounds, unit="MB")
    return {"files": [], "missed": None, "forecast": {"seconds": time.monotonic() - begun}}


def convert(*, kind: str, payload: Mapping[str, Any], folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """A conversion of a small network that heals for ``heal_steps``; the seconds that it took are the forecast."""
    import numpy as np
    import torch
    from torch import nn

    from aslconvert.workers.engine import run as engine

    inputs = folder / "in"
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(48, 3, 1)).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes), inputs / "net.pt2")
    noise = torch.randn(60, 3, 32, 32)
    np.savez(inputs / "data.npz", input=nn.functional.avg_pool2d(noise, 3, stride=1, padding=1).numpy())
    steps = int(payload["options"]["heal_steps"])
    options = {"min_speedup": 1.01, "heal_steps": steps, "threads": 1, "artifacts": ["portable"]}
    begun = time.monotonic()
    given = {"model": "net.pt2", "data": "data.npz", "options": options}
    engine(kind="convert", payload=given, folder=folder, tell=tell)
    return {"files": [], "missed": None, "forecast": {"seconds": time.monotonic() - begun}}
