"""Samples of the pool that healing does not train on: they decide which weights are given back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functional_call

from aslconvert.converter.heal.pool import Pool

SHARE = 0.1
LEAST, MOST = 64, 128
"""Held-out samples: fewer tell little, more cost steps. A small pool gives a quarter at most."""

JUDGE_BATCH = 16
PROBE_SAMPLES = 64


class HeldOut:
    """Divides a pool: ``train`` and ``held`` are sample numbers [N] without a common one.

    With ``multiple`` (a model's fixed batch) both are multiples of it. A pool of one batch serves for both.
    """

    def __init__(self, pool: Pool, *, seed: int, multiple: int | None = None) -> None:
        self._pool = pool
        self._batch = multiple or JUDGE_BATCH
        count, unit = len(pool), multiple or 1
        wanted = min(max(int(count * SHARE), LEAST), MOST, count // 4)
        wanted = max(wanted // unit * unit, unit)
        # Stored order may be that of the classes.
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        if count < wanted + unit:
            self.train = self.held = order
        else:
            self.train, self.held = order[wanted:], order[:wanted].sort().values
        self._order = Pool(inputs=(self.train,), outputs=())

    def indices(self, step: int, batch: int, *, seed: int) -> Tensor:
        """Sample numbers to train one step on, a pure function of its arguments."""
        return self.train[self._order.indices(step, batch, seed=seed)]

    def loss(self, gm: fx.GraphModule, weights: Mapping[str, Tensor] | None = None) -> float:
        """The loss on the held-out samples, of ``gm`` with ``weights`` in the place of its own."""
        return _mean_loss(gm, self._pool, self.held, batch=self._batch, weights=weights or {})


def probe_loss(gm: fx.GraphModule, pool: Pool, *, batch: int) -> float:
    """The loss over the pool's first samples."""
    count = min(PROBE_SAMPLES, len(pool)) // batch * batch or batch
    return _mean_loss(gm, pool, torch.arange(min(count, len(pool))), batch=batch, weights={})


def _mean_loss(gm: fx.GraphModule, pool: Pool, index: Tensor, *, batch: int, weights: Mapping[str, Tensor]) -> float:
    device = next((p.device for p in gm.parameters()), torch.device("cpu"))

    def model(*inputs: Tensor) -> Any:
        return functional_call(gm, dict(weights), inputs)

    with torch.no_grad():
        total = sum(float(pool.loss(model, part, device=device)) * len(part) for part in torch.split(index, batch))
    return total / max(len(index), 1)
