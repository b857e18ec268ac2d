"""Scores outputs against targets, labels or the original's outputs, with bootstrap intervals over groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from aslconvert.converter.data.dataset import Batch
from aslconvert.converter.errors import UsageError

BOOTSTRAP = 2000
# Stands for "no error" at float32's rounding: identical pictures score 100 dB instead of infinity.
_MSE_FLOOR = 1e-10

Floats = np.ndarray[Any, np.dtype[np.float64]]
# [..., G, S] sums of statistics over the samples of each group, [..., G] sample counts -> [...] scores
Combine = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Estimate:
    """A score with its 95 % bootstrap interval over ``groups`` groups."""

    name: str
    value: float
    ci_low: float
    ci_high: float
    higher_is_better: bool
    unit: str
    groups: int
    samples: int


@dataclass(frozen=True)
class Metric:
    """A score of a model.

    ``statistics`` maps (outputs, reference) to [N, S] sums a sample; ``combine`` maps group sums to the score.
    ``reference`` names what the outputs are held against: the batch's target or label, or the original's outputs.
    """

    name: str
    unit: str
    better: Literal["up", "down"]
    reference: Literal["target", "label", "original"]
    statistics: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
    combine: Combine

    @property
    def higher_is_better(self) -> bool:
        """The direction of the score."""
        return self.better == "up"

    def of_batch(self, batch: Batch) -> Sequence[Tensor] | None:
        """What ``batch`` holds for this metric to be held against, or None."""
        value = batch.label if self.reference == "label" else batch.target if self.reference == "target" else None
        return None if value is None else (value,)


@dataclass
class Tally:
    """Gathers one model's statistics of one metric over batches; ``result`` may be asked at any time."""

    metric: Metric
    _sums: dict[int, Floats] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=dict)

    def add(self, outputs: Any, reference: Any, groups: Sequence[int] | np.ndarray[Any, Any]) -> None:
        """Add a batch: ``outputs`` and ``reference`` are tensors or nests of them, ``groups`` [N] group numbers.

        Raises:
            UsageError: ``data_shape``, when they do not fit each other.
        """
        with torch.no_grad():
            rows = self.metric.statistics(flatten(outputs), flatten(reference)).double().cpu().numpy()
        for row, group in zip(rows, np.asarray(groups).tolist(), strict=True):
            self._sums[group] = self._sums.get(group, 0.0) + row
            self._counts[group] = self._counts.get(group, 0) + 1

    def result(self, *, seed: int = 0) -> Estimate:
        """The score over everything added so far."""
        sums, counts = self.arrays()
        boot = self.metric.combine(*_resampled(sums, counts, seed))
        return _estimate(self.metric, self.metric.combine(sums, counts), boot, counts)

    def arrays(self) -> tuple[Floats, Floats]:
        """[G, S] sums and [G] counts, groups in ascending order."""
        if not self._sums:
            raise UsageError("data_empty", f"Nothing was scored by {self.metric.name}.")
        order = sorted(self._sums)
        return np.stack([self._sums[g] for g in order]), np.array([self._counts[g] for g in order], dtype=np.float64)

    @property
    def groups(self) -> list[int]:
        """The group numbers seen, ascending."""
        return sorted(self._sums)


def drop(original: Tally, variant: Tally, *, seed: int = 0) -> Estimate:
    """Loss of ``variant`` against ``original`` on the same samples, groups resampled in pairs; positive is worse.

    That is original - variant where higher is better, variant - original where lower is.

    Raises:
        ValueError: the two were not gathered over the same metric and groups.
    """
    if original.metric.name != variant.metric.name or original.groups != variant.groups:
        raise ValueError("a paired difference needs the same metric over the same groups")
    metric = original.metric
    sign = 1.0 if metric.higher_is_better else -1.0

    def difference(pair: tuple[tuple[Floats, Floats], tuple[Floats, Floats]]) -> Floats:
        return sign * (metric.combine(*pair[0]) - metric.combine(*pair[1]))

    first, second = original.arrays(), variant.arrays()
    boot = difference((_resampled(*first, seed), _resampled(*second, seed)))
    return _estimate(metric, difference((first, second)), boot, first[1], higher_is_better=False)


def psnr(*, peak: float = 1.0) -> Metric:
    """Peak signal-to-noise ratio in dB: of each group's mean MSE, then averaged over the groups."""

    def combine(sums: Floats, counts: Floats) -> Floats:
        mse = np.maximum(sums[..., 0] / counts, _MSE_FLOOR * peak**2)
        return np.asarray((10 * np.log10(peak**2 / mse)).mean(axis=-1))

    return Metric("psnr", "dB", "up", "target", _squared_error, combine)


def mean_of_samples(sums: Floats, counts: Floats) -> Floats:
    """The mean of the first statistic over all samples."""
    return np.asarray(sums[..., 0].sum(axis=-1) / counts.sum(axis=-1))


def _relative(sums: Floats, counts: Floats) -> Floats:
    return np.asarray(np.sqrt(sums[..., 0].sum(axis=-1) / np.maximum(sums[..., 1].sum(axis=-1), 1e-30)))


def flatten(value: Any) -> list[Tensor]:
    """The tensors of a nest of tuples, lists and dicts, in order; dicts in the order of their keys."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [leaf for key in value for leaf in flatten(value[key])]
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in flatten(part)]
    return []


def _main_output(outputs: Sequence[Tensor]) -> Tensor:
    for output in outputs:
        if output.is_floating_point():
            return output.detach()
    raise UsageError("data_shape", "The model has no floating-point output to score.")


def _squared_error(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    output, target = _main_output(outputs), reference[0]
    if output.shape != target.shape:
        raise UsageError(
            "data_shape", f"The model's output has shape {list(output.shape)}, the target {list(target.shape)}."
        )
    return (output.double() - target.double()).square().flatten(1).mean(dim=1, keepdim=True)


def _correct(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    scores, label = _main_output(outputs), reference[0]
    if scores.dim() != 2 or label.shape != scores.shape[:1]:
        raise UsageError(
            "data_shape", f"Class scores [batch, classes] are needed for top1, the model gives {list(scores.shape)}."
        )
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= scores.shape[1]:
        raise UsageError("data_shape", f"Labels reach from {low} to {high}, the model has {scores.shape[1]} classes.")
    return scores.argmax(1).eq(label).double().unsqueeze(1)


def _error_and_norm(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    pairs = [(a, b) for a, b in zip(outputs, reference, strict=True) if b.is_floating_point()]
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        raise UsageError("data_shape", "The outputs of the two models do not have the same floating-point shapes.")
    error = sum(_per_sample(a.detach().double() - b.double()) for a, b in pairs)
    norm = sum(_per_sample(b.double()) for _, b in pairs)
    return torch.stack([torch.as_tensor(error), torch.as_tensor(norm)], dim=1)


def _per_sample(x: Tensor) -> Tensor:
    return x.square().reshape(len(x), -1).sum(dim=1)


def _overlaps(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """[N, 2 C]: pixels in the intersection and in the union of each class."""
    scores, wanted = _main_output(outputs), reference[0]
    if scores.dim() != 4 or wanted.shape != (len(scores), *scores.shape[2:]) or wanted.is_floating_point():
        raise UsageError(
            "data_shape",
            f"For miou the model gives scores [N, classes, H, W] and the target is integers [N, H, W]; they are "
            f"{list(scores.shape)} and {list(wanted.shape)} of {wanted.dtype}.",
        )
    classes = scores.shape[1]
    given = functional.one_hot(scores.argmax(1), classes).flatten(1, 2).bool()
    # Values that are no class, such as 255, are pixels that nobody labelled.
    known = ((wanted >= 0) & (wanted < classes)).flatten(1)[..., None]
    wanted = functional.one_hot(wanted.long().clamp(0, classes - 1), classes).flatten(1, 2).bool() & known
    given = given & known
    return torch.cat([(given & wanted).sum(1), (given | wanted).sum(1)], dim=1).double()


def _mean_overlap(sums: Floats, counts: Floats) -> Floats:
    """Intersection over union of each class over all samples, averaged over the classes that occur."""
    total = sums.sum(axis=-2)
    both, either = np.split(total, 2, axis=-1)
    seen = either > 0
    return np.asarray((both / np.maximum(either, 1)).sum(axis=-1) / np.maximum(seen.sum(axis=-1), 1))


def _same_class(outputs: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    return _correct(outputs, (_main_output(reference).argmax(1),))


TOP1 = Metric("top1", "", "up", "label", _correct, mean_of_samples)
MSE = Metric("mse", "", "down", "target", _squared_error, mean_of_samples)
AGREEMENT = Metric("relative_l2", "", "down", "original", _error_and_norm, _relative)
AGREEMENT_TOP1 = Metric("agreement_top1", "", "up", "original", _same_class, mean_of_samples)
MIOU = Metric("miou", "", "up", "target", _overlaps, _mean_overlap)
METRICS: Mapping[str, Metric] = {"psnr": psnr(), "top1": TOP1, "mse": MSE, "miou": MIOU}


def metric_named(name: str) -> Metric:
    """The task metric ``name``.

    Raises:
        UsageError: ``metric``, for an unknown name.
    """
    if name not in METRICS:
        known = ", ".join(METRICS)
        raise UsageError("metric", f"No metric {name!r}; there are {known}.", hint="Or name one: file.py:function.")
    return METRICS[name]


def has_class_scores(outputs: Any) -> bool:
    """Whether the outputs are one tensor [batch, classes] of at least two classes."""
    tensors = flatten(outputs)
    return len(tensors) == 1 and tensors[0].dim() == 2 and tensors[0].shape[1] > 1 and tensors[0].is_floating_point()


def _resampled(sums: Floats, counts: Floats, seed: int) -> tuple[Floats, Floats]:
    picks = np.random.default_rng(seed).integers(0, len(counts), size=(BOOTSTRAP, len(counts)))
    return sums[picks], counts[picks]


def _estimate(
    metric: Metric, value: Floats, boot: Floats, counts: Floats, *, higher_is_better: bool | None = None
) -> Estimate:
    low, high = np.percentile(boot, [2.5, 97.5])
    if not math.isfinite(float(value)):
        raise UsageError("metric_not_finite", f"{metric.name} is {float(value)}: the model's outputs are not finite.")
    return Estimate(
        name=metric.name,
        value=float(value),
        ci_low=float(low),
        ci_high=float(high),
        higher_is_better=metric.higher_is_better if higher_is_better is None else higher_is_better,
        unit=metric.unit,
        groups=len(counts),
        samples=int(counts.sum()),
    )
