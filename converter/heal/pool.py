"""Calibration and healing inputs, cropped where asked; the original's outputs are computed once for all variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aslconvert.converter.data.dataset import Batch, Subset
from aslconvert.converter.data.metrics import METRICS, flatten
from aslconvert.converter.errors import UsageError
from aslconvert.converter.heal.loss import Task, distillation_loss, magnitude, task_loss, task_scale
from aslconvert.converter.options import Crop

POOL_BYTES = 768 * 1024**2
"""Inputs and teacher outputs kept in memory; more samples than fit are not drawn."""

TEACHER_BATCH = 16


@dataclass(frozen=True)
class TaskTerm:
    """What the data itself wants of the first float output: ``wanted`` [N, ...], and its ``weight`` in 0 .. 1."""

    task: Task
    wanted: Tensor
    weight: float


@dataclass(frozen=True)
class Pool:
    """``inputs``: the model's input tensors [N, ...]; ``outputs``: the original's float outputs [N, ...].

    ``pixels_are_classes``: as of ``distillation_loss``.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    task: TaskTerm | None = None
    pixels_are_classes: bool = False

    def loss(
        self,
        model: Callable[..., Any],
        index: Tensor,
        *,
        device: torch.device,
        of: Tensor | None = None,
    ) -> Tensor:
        """What is lowered, of ``model`` on the samples ``index``, a part of the batch ``of``: parts average to it."""
        of = index if of is None else of
        scales = [magnitude(y[of]).to(device) for y in self.outputs]
        student = [o for o in flatten(model(*(x[index].to(device) for x in self.inputs))) if o.is_floating_point()]
        teacher = [y[index].to(device) for y in self.outputs]
        distance = distillation_loss(student, teacher, scales=scales, pixels_are_classes=self.pixels_are_classes)
        if self.task is None:
            return distance
        task, wanted = self.task.task, self.task.wanted
        scale = task_scale(wanted[of], task=task, classes=student[0].shape[1]).to(device)
        own = task_loss(student[0], wanted[index].to(device), task=task, scale=scale)
        return torch.lerp(distance, own, self.task.weight)

    def __len__(self) -> int:
        return len(self.inputs[0])

    def to(self, device: torch.device) -> Pool:
        """The same samples on ``device``."""
        task = None if self.task is None else replace(self.task, wanted=self.task.wanted.to(device))
        inputs, outputs = (tuple(x.to(device) for x in tensors) for tensors in (self.inputs, self.outputs))
        return replace(self, inputs=inputs, outputs=outputs, task=task)

    def indices(self, step: int, batch: int, *, seed: int) -> Tensor:
        """Sample numbers of one step: a pure function of its arguments, so that a resumed run sees the same data."""
        per_epoch = max(len(self) // batch, 1)
        epoch, position = divmod(step, per_epoch)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63))
        return order[position * batch : (position + 1) * batch]


def draw_samples(subset: Subset, count: int, *, crop: Crop | None, seed: int) -> tuple[Tensor, ...]:
    """The inputs of ``draw``, [count, ...] each.

    Raises:
        UsageError: ``heal_crop``, when an input is no image or smaller than the crop.
    """
    return draw(subset, count, crop=crop, seed=seed).inputs


def draw(subset: Subset, count: int, *, crop: Crop | None, seed: int) -> Batch:
    """``count`` samples; what is wanted of them is cropped with them where it is as high and wide as the inputs.

    Without a crop at most the whole subset is given, in group-balanced order. With one, random crops are cut from
    samples drawn with equal chance; inputs of the same height and width are cut alike.

    Raises:
        UsageError: ``heal_crop``, when an input is no image or smaller than the crop.
    """
    if crop is None:
        chosen = subset.take(count)
        return chosen.batch(range(len(chosen)))
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(subset), (count,), generator=generator)
    pieces = [_cut(subset.batch([position]), crop, generator) for position in picks.tolist()]
    return Batch(
        inputs=tuple(torch.cat(parts) for parts in zip(*(piece.inputs for piece in pieces), strict=True)),
        target=_joined([piece.target for piece in pieces]),
        label=_joined([piece.label for piece in pieces]),
        groups=np.concatenate([piece.groups for piece in pieces]),
    )


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
    task: TaskTerm | None = None,
    pixels_are_classes: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> Pool:
    """Run the original over ``inputs`` once and keep its float outputs.

    ``batch`` is the model's own batch size where that is fixed; samples that do not fill a batch are then left out.

    Raises:
        UsageError: ``data_shape``, when the original's output cannot be held against what ``task`` wants.
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
    outputs = tuple(torch.cat(parts) for parts in zip(*collected, strict=True))
    if task is not None:
        task = replace(task, wanted=task.wanted[:total])
        METRICS[task.task].statistics(outputs[:1], (task.wanted,))
    return Pool(inputs=inputs, outputs=outputs, task=task, pixels_are_classes=pixels_are_classes)


def _cut(batch: Batch, crop: Crop, generator: torch.Generator) -> Batch:
    sizes = {tuple(x.shape[2:]) for x in batch.inputs if x.dim() == 4}
    if len(sizes) != 1:
        raise UsageError("heal_crop", "Crops need image inputs of one size.", hint="Leave --heal-crop away.")
    height, width = sizes.pop()
    if min(height, width) < crop.size:
        raise UsageError(
            "heal_crop", f"A crop of {crop.size} pixels does not fit samples of {height}x{width}.", hint="Crop smaller."
        )
    top, left = (
        int(torch.randint((size - crop.size) // crop.multiple + 1, (1,), generator=generator)) * crop.multiple
        for size in (height, width)
    )

    def cut(x: Tensor) -> Tensor:
        return x[..., top : top + crop.size, left : left + crop.size]

    target = batch.target
    if target is not None:
        target = cut(target) if tuple(target.shape[-2:]) == (height, width) else None
    return batch._replace(inputs=tuple(cut(x) if x.dim() == 4 else x for x in batch.inputs), target=target)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if len(there) == len(parts) else None
