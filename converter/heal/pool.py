"""Calibration and healing inputs, cropped where asked; the original's outputs are computed once for all variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aslconvert.converter.data.dataset import Subset
from aslconvert.converter.data.metrics import flatten
from aslconvert.converter.errors import UsageError
from aslconvert.converter.options import Crop

POOL_BYTES = 768 * 1024**2
"""Inputs and teacher outputs kept in memory; more samples than fit are not drawn."""

TEACHER_BATCH = 16


@dataclass(frozen=True)
class Pool:
    """``inputs``: the model's input tensors [N, ...]; ``outputs``: the original's float outputs [N, ...]."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.inputs[0])

    def indices(self, step: int, batch: int, *, seed: int) -> Tensor:
        """Sample numbers of one step: a pure function of its arguments, so that a resumed run sees the same data."""
        per_epoch = max(len(self) // batch, 1)
        epoch, position = divmod(step, per_epoch)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63))
        return order[position * batch : (position + 1) * batch]


def draw_samples(subset: Subset, count: int, *, crop: Crop | None, seed: int) -> tuple[Tensor, ...]:
    """``count`` samples of the model's inputs, [count, ...] each.

    Without a crop at most the whole subset is given, in group-balanced order. With one, random crops are cut from
    samples drawn with equal chance; inputs of the same height and width are cut alike.

    Raises:
        UsageError: ``heal_crop``, when an input is no image or smaller than the crop.
    """
    if crop is None:
        chosen = subset.take(count)
        return chosen.batch(range(len(chosen))).inputs
    generator = torch.Generator().manual_seed(seed)
    pieces: list[tuple[Tensor, ...]] = []
    picks = torch.randint(len(subset), (count,), generator=generator)
    for position in picks.tolist():
        pieces.append(_cut(subset.batch([position]).inputs, crop, generator))
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


def pool_size(sample: Sequence[Tensor], outputs: Any, *, limit_bytes: int = POOL_BYTES) -> int:
    """How many samples a pool may hold; ``sample`` and ``outputs`` belong to one batch."""
    tensors = [*sample, *flatten(outputs)]
    per_sample = sum(t.numel() // len(sample[0]) * t.element_size() for t in tensors)
    return max(1, limit_bytes // max(per_sample, 1))


def build_pool(
    teacher: Callable[..., Any],
    inputs: tuple[Tensor, ...],
    *,
    batch: int | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Pool:
    """Run the original over ``inputs`` once and keep its float outputs.

    ``batch`` is the model's own batch size where that is fixed; samples that do not fill a batch are then left out.
    """
    collected: list[list[Tensor]] = []
    size = batch or TEACHER_BATCH
    total = len(inputs[0]) if batch is None else len(inputs[0]) // batch * batch
    inputs = tuple(x[:total] for x in inputs)
    with torch.no_grad():
        for start in range(0, total, size):
            out = teacher(*(x[start : start + size] for x in inputs))
            floats = [o for o in flatten(out) if o.is_floating_point()]
            collected.append(floats)
            if on_batch is not None:
                on_batch(min(start + size, total), total)
    return Pool(inputs=inputs, outputs=tuple(torch.cat(parts) for parts in zip(*collected, strict=True)))


def _cut(inputs: tuple[Tensor, ...], crop: Crop, generator: torch.Generator) -> tuple[Tensor, ...]:
    heights = {tuple(x.shape[2:]) for x in inputs if x.dim() == 4}
    if len(heights) != 1:
        raise UsageError("heal_crop", "Crops need image inputs of one size.", hint="Leave --heal-crop away.")
    height, width = heights.pop()
    if min(height, width) < crop.size:
        raise UsageError(
            "heal_crop", f"A crop of {crop.size} pixels does not fit samples of {height}x{width}.", hint="Crop smaller."
        )
    top, left = (
        int(torch.randint((size - crop.size) // crop.multiple + 1, (1,), generator=generator)) * crop.multiple
        for size in (height, width)
    )
    return tuple(x[:, :, top : top + crop.size, left : left + crop.size] if x.dim() == 4 else x for x in inputs)
