"""The distance between the student's and the original's outputs that healing lowers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 2.0
"""Softens class scores before they are compared (Hinton et al. 2015); the gradient is scaled back by its square."""


def distillation_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, scales: Sequence[Tensor] | None = None
) -> Tensor:
    """Mean over the float outputs of: KL divergence for class scores [N, C], else relative L1 error.

    Relative to the teacher's mean magnitude, so that outputs of any scale weigh the same; ``scales`` gives it for each
    output where ``teacher`` is a part of a batch, so that the parts' losses average to that of the whole.
    """
    if not student:
        raise ValueError("the model has no floating-point output to distil")
    scales = [magnitude(t) for t in teacher] if scales is None else scales
    terms = [_term(s, t, scale) for s, t, scale in zip(student, teacher, scales, strict=True)]
    return torch.stack(terms).mean()


def magnitude(teacher: Tensor) -> Tensor:
    """What errors of an output are relative to."""
    return teacher.abs().mean().clamp_min(1e-8)


def _term(student: Tensor, teacher: Tensor, scale: Tensor) -> Tensor:
    error = (student - teacher).abs().mean() / scale
    if teacher.dim() == 2 and teacher.shape[1] > 1:
        divergence = functional.kl_div(
            functional.log_softmax(student / TEMPERATURE, dim=1),
            functional.log_softmax(teacher / TEMPERATURE, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        # The scores' own error keeps the gradient alive once the soft classes agree.
        return divergence * TEMPERATURE**2 + error
    return error
