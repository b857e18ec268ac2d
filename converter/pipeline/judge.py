"""Scores variants against targets and against the original, on one split of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from aslconvert.converter.data.dataset import Batch, Subset
from aslconvert.converter.data.metrics import (
    AGREEMENT,
    AGREEMENT_TOP1,
    Metric,
    Tally,
    drop,
    has_class_scores,
    metric_named,
)
from aslconvert.converter.data.own_metric import own_metric
from aslconvert.converter.errors import UsageError
from aslconvert.converter.report.schema import Agreement, Change, MetricValue

BATCH = 8

AGREEMENT_NAME = "agreement"
"""The metric when the data has no target and no label: the relative L2 distance to the original's outputs."""

DEFAULT_MAX_DROP = {"psnr": 1.0, "top1": 0.01, "miou": 0.01, "mse": 0.0, AGREEMENT_NAME: 0.05}
"""Accepted loss where the user asks for neither accuracy nor speed, in the metric's own unit."""


@dataclass(frozen=True)
class Score:
    """A variant on one split; ``loss`` is what choosing compares: the metric's loss, or the relative L2 error."""

    metric: MetricValue | None
    change: Change | None
    agreement: Agreement
    loss: float


class Judge:
    """Runs the original over ``subset`` once, then scores any number of variants on the same samples."""

    def __init__(
        self, original: Callable[..., Any], subset: Subset, *, metric: Metric | None, batch: int | None, seed: int
    ) -> None:
        self.metric = metric
        self._seed = seed
        self._batches: list[tuple[Batch, Any]] = []
        self._tally = Tally(metric) if metric is not None else None
        with torch.no_grad():
            for item in subset.batches(batch or BATCH, drop_last=batch is not None):
                outputs = original(*item.inputs)
                self._batches.append((item, outputs))
                self._add(self._tally, outputs, outputs, item)
        if not self._batches:
            raise UsageError("too_few_samples", "A split of the data does not fill one batch of the model.")
        self.classes = has_class_scores(self._batches[0][1])

    @property
    def original(self) -> MetricValue | None:
        """The original's own score."""
        return None if self._tally is None else _value(self._tally, seed=self._seed)

    def score(self, variant: Callable[..., Any]) -> Score:
        """Run ``variant`` over the samples."""
        tally = Tally(self.metric) if self.metric is not None else None
        distance = Tally(AGREEMENT)
        same = Tally(AGREEMENT_TOP1) if self.classes else None
        with torch.no_grad():
            for item, reference in self._batches:
                outputs = variant(*item.inputs)
                self._add(tally, outputs, reference, item)
                distance.add(outputs, reference, item.groups)
                if same is not None:
                    same.add(outputs, reference, item.groups)
        estimate = distance.result(seed=self._seed)
        agreement = Agreement(
            relative_l2=estimate.value,
            ci=(estimate.ci_low, estimate.ci_high),
            top1=None if same is None else same.result(seed=self._seed).value,
        )
        change = None
        if tally is not None and self._tally is not None:
            lost = drop(self._tally, tally, seed=self._seed)
            change = Change(value=lost.value, ci=(lost.ci_low, lost.ci_high))
        return Score(
            metric=None if tally is None else _value(tally, seed=self._seed),
            change=change,
            agreement=agreement,
            loss=estimate.value if change is None else change.value,
        )

    def _add(self, tally: Tally | None, outputs: Any, original: Any, item: Batch) -> None:
        if tally is not None:
            reference = original if tally.metric.reference == "original" else tally.metric.of_batch(item)
            if reference is None:
                raise UsageError("metric", f"The data has no {tally.metric.reference} for {tally.metric.name}.")
            tally.add(outputs, reference, item.groups)


def metric_for(subset: Subset, name: str | None) -> Metric | None:
    """The metric asked for, or what the data allows: top1 with labels, psnr with targets, else None (agreement).

    A ``name`` such as ``file.py:function`` is a metric of the user's own (see ``own_metric``).

    Raises:
        UsageError: ``metric``, when the data lacks what the metric is held against.
    """
    if name == AGREEMENT_NAME:
        return None
    if name is not None and ":" in name:
        data = subset.dataset
        metric = own_metric(
            name, default="target" if data.target is not None else "label" if data.label is not None else "original"
        )
        return _checked(metric, subset)
    if name is None:
        if subset.dataset.label is not None:
            return metric_named("top1")
        return metric_named("psnr") if subset.dataset.target is not None else None
    return _checked(metric_named(name), subset)


def _checked(metric: Metric, subset: Subset) -> Metric:
    if metric.reference != "original" and metric.of_batch(subset.batch([0])) is None:
        raise UsageError("metric", f"The data has no {metric.reference}, which {metric.name} needs.")
    return metric


def _value(tally: Tally, *, seed: int) -> MetricValue:
    estimate = tally.result(seed=seed)
    return MetricValue(
        name=estimate.name,
        value=estimate.value,
        ci=(estimate.ci_low, estimate.ci_high),
        higher_is_better=estimate.higher_is_better,
        unit=estimate.unit,
    )
