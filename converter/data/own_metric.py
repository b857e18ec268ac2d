"""A metric of the user's own: a Python function that scores every sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from aslconvert.converter.data.factory import import_function
from aslconvert.converter.data.metrics import Metric, mean_of_samples
from aslconvert.converter.errors import UsageError

Reference = Literal["target", "label", "original"]


def own_metric(spec: str, *, default: Reference) -> Metric:
    """The metric ``file.py:function`` or ``module:function``.

    ``function(outputs, reference)`` gets a batch of the model's outputs and of what they are held against, each a
    tensor or, where there are several, a list of them, and returns a score for every sample [N]; their mean is the
    metric. Two attributes of the function may say more: ``better``, "up" (the default) or "down", and ``reference``,
    what is handed over: "target" or "label" of the data, or "original", the original's outputs; else ``default``.

    Raises:
        UsageError: ``metric``, when there is no such function or its attributes say anything else; later, when it fails
            or does not give a finite number for every sample.
    """
    try:
        function = import_function(spec)
    except UsageError as error:
        raise UsageError("metric", error.message, hint="Write --metric file.py:function.") from error
    except Exception as error:  # the user's code may raise anything
        raise UsageError("metric", f"{spec} cannot be imported: {type(error).__name__}: {error}") from error
    better, reference = getattr(function, "better", "up"), getattr(function, "reference", default)
    if better not in ("up", "down") or reference not in get_args(Reference):
        raise UsageError(
            "metric",
            f"{spec} has better = {better!r} and reference = {reference!r}.",
            hint="better is 'up' or 'down'; reference is 'target', 'label' or 'original'.",
        )

    def statistics(outputs: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
        try:
            scores = torch.as_tensor(function(_alone(outputs), _alone(references))).double().cpu()
        except Exception as error:  # the user's code may raise anything
            raise UsageError("metric", f"{spec} failed: {type(error).__name__}: {error}") from error
        if scores.shape != (len(outputs[0]),) or not bool(torch.isfinite(scores).all()):
            raise UsageError(
                "metric",
                f"{spec} gave scores of shape {list(scores.shape)} for {len(outputs[0])} samples, or not finite ones.",
                hint="It must return one finite number a sample.",
            )
        return scores[:, None]

    name = spec.rpartition(":")[2]
    direction = cast(Literal["up", "down"], better)
    return Metric(name, "", direction, cast(Reference, reference), statistics, mean_of_samples)


def _alone(tensors: Sequence[Tensor]) -> Any:
    detached = [tensor.detach() for tensor in tensors]
    return detached[0] if len(detached) == 1 else detached
