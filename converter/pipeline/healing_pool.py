"""The samples that every variant of a conversion is healed on, with the original's answers to them."""

from __future__ import annotations

import torch

from aslconvert.converter.data.dataset import Batch
from aslconvert.converter.data.metrics import METRICS, Metric
from aslconvert.converter.errors import UsageError
from aslconvert.converter.heal.loss import TASKS, Task
from aslconvert.converter.heal.pool import Pool, TaskTerm, build_pool, draw, draw_samples, pool_size
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.progress import Progress

HEAL_PIXELS = 12 << 20
"""Input positions whose answers the original gives once, for all variants."""

LEAST_HEAL_SAMPLES = 256


def healing_pool(subject: Subject, options: ConvertOptions, *, metric: Metric | None, progress: Progress) -> Pool:
    """Draw samples of the heal split and let the original answer them.

    ``metric`` says whether pixels have classes, and which loss the data itself has, where the options ask for it.

    Raises:
        UsageError: ``task_loss``, when the data or its metric has none; ``heal_crop``; ``data_shape``.
    """
    progress.stage("the original's answers")
    split = subject.data.split("heal")
    probe = draw_samples(split, 1, crop=options.heal_crop, seed=options.seed)
    sample = probe if subject.fixed_batch is None else subject.example
    with torch.no_grad():
        limit = max(pool_size(sample, subject.gm(*sample)), subject.fixed_batch or 1)
    pixels = max((x.shape[2:].numel() for x in probe if x.dim() == 4), default=1)
    count = min(max(HEAL_PIXELS // pixels, LEAST_HEAL_SAMPLES), limit)
    batch = draw(split, count, crop=options.heal_crop, seed=options.seed + 1)
    return build_pool(
        subject.gm,
        batch.inputs,
        batch=subject.fixed_batch,
        task=_task_term(batch, metric, options.task_loss) if options.task_loss else None,
        pixels_are_classes=metric is METRICS["miou"],
        on_batch=lambda done, total: progress.update(done, total, "samples"),
    )


def task_of(metric: Metric | None) -> Task:
    """The loss that belongs to ``metric``.

    Raises:
        UsageError: ``task_loss``, when there is none.
    """
    if metric is None:
        raise UsageError(
            "task_loss", "The data has no labels or targets to take a loss from.", hint="Leave --task-loss away."
        )
    found = next((name for name in TASKS if METRICS[name] is metric), None)
    if found is None:
        raise UsageError(
            "task_loss",
            f"No loss is known for the metric {metric.name}.",
            hint=f"There is one for {', '.join(TASKS)}; leave --task-loss away.",
        )
    return found


def _task_term(batch: Batch, metric: Metric | None, weight: float) -> TaskTerm:
    task = task_of(metric)
    values = METRICS[task].of_batch(batch)
    if values is None:
        raise UsageError(
            "task_loss",
            "Crops have no target here: targets are not as high and wide as the inputs.",
            hint="Leave --heal-crop or --task-loss away.",
        )
    return TaskTerm(task, values[0], weight)
