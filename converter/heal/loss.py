"""What healing lowers: the distance between the student's and the original's outputs, and the task's own loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 2.0
"""Softens class scores before they are compared (Hinton et al. 2015); the gradient is scaled back by its square."""

Task = Literal["top1", "miou", "psnr", "mse"]
"""The metrics that have a loss: cross-entropy for the classes of samples and of pixels, the error for the others."""

TASKS: tuple[Task, ...] = get_args(Task)


def task_loss(output: Tensor, wanted: Tensor, *, task: Task, scale: Tensor | None = None) -> Tensor:
    """How far the scores or pixels of ``output`` [N, ...] are from the labels or targets ``wanted`` [N, ...].

    Cross-entropy of class scores [N, C] or [N, C, H, W]; pixels of no class count for nothing. Else the mean
    absolute error relative to what is wanted, as of the distance to the original: so that weights compare alike.
    ``scale`` is ``task_scale`` of the batch that these are a part of: the parts' losses then average to its loss.
    """
    classes = output.shape[1]
    if scale is None:
        scale = task_scale(wanted, task=task, classes=classes)
    if task in ("psnr", "mse"):
        return (output - wanted).abs().mean() / scale
    known = _known(wanted, classes)
    each = functional.cross_entropy(output, wanted.long().where(known, 0), reduction="none")
    return (each * known).sum() / (scale * len(output))


def task_scale(wanted: Tensor, *, task: Task, classes: int) -> Tensor:
    """What ``task_loss`` of a batch is relative to: labels or labelled pixels a sample, or the mean magnitude."""
    if task in ("psnr", "mse"):
        return magnitude(wanted)
    return (_known(wanted, classes).sum() / len(wanted)).clamp_min(1 / len(wanted))


def _known(wanted: Tensor, classes: int) -> Tensor:
    return (wanted >= 0) & (wanted < classes)


def distillation_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    scales: Sequence[Tensor] | None = None,
    pixels_are_classes: bool = False,
) -> Tensor:
    """Mean over the float outputs of the relative L1 error, and for class scores of the KL divergence besides.

    Relative to the teacher's mean magnitude, so that outputs of any scale weigh the same; ``scales`` gives it for each
    output where ``teacher`` is a part of a batch, so that the parts' losses average to that of the whole. Outputs
    [N, C] are taken for class scores; ``pixels_are_classes`` says that the first output [N, C, ...] is such too, a
    class for every pixel: then a pixel on an outline, where scores are close, weighs more than its scores' size.
    """
    if not student:
        raise ValueError("the model has no floating-point output to distil")
    scales = [magnitude(t) for t in teacher] if scales is None else scales
    terms = [
        _term(s, t, scale, classes=t.dim() == 2 or (pixels_are_classes and number == 0 and t.dim() > 2))
        for number, (s, t, scale) in enumerate(zip(student, teacher, scales, strict=True))
    ]
    return torch.stack(terms).mean()


def magnitude(teacher: Tensor) -> Tensor:
    """What errors of an output are relative to."""
    return teacher.abs().mean().clamp_min(1e-8)


def _term(student: Tensor, teacher: Tensor, scale: Tensor, *, classes: bool) -> Tensor:
    error = (student - teacher).abs().mean() / scale
    if classes and teacher.shape[1] > 1:
        divergence = functional.kl_div(
            functional.log_softmax(student / TEMPERATURE, dim=1),
            functional.log_softmax(teacher / TEMPERATURE, dim=1),
            reduction="sum",
            log_target=True,
        ) / (teacher.numel() // teacher.shape[1])
        # The scores' own error keeps the gradient alive once the soft classes agree.
        return divergence * TEMPERATURE**2 + error
    return error
