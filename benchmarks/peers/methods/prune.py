"""Channels cut out by torch-pruning, by the size of their weights or by Taylor's estimate of what the loss gains.

Sources: Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023; Molchanov et al., "Importance Estimation
for Neural Network Pruning", CVPR 2019.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Literal

import torch_pruning
from torch import Tensor, fx, nn

from aslconvert.converter.data.dataset import Batch, Subset
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.prepare import prepare
from peers.tasks.task import Loss, Task

RATIOS = (0.55, 0.4, 0.25)
"""Shares of the channels of every group that go."""

ROUND_TO = 4
"""Channels that are left come in multiples of it: libraries work on them in vectors."""

SCORED = 16
BATCH = 16
"""Calibration batches, and their size, that Taylor's gradients are summed over."""


def pruned(task: Task, calibrate: Subset, *, ratio: float, by: Literal["magnitude", "taylor"]) -> fx.GraphModule:
    """The task's network without ``ratio`` of its channels, batch norms folded."""
    net = cut(task.net, task.example, calibrate, task.metric, fixed=task.fixed, ratio=ratio, by=by, loss=task.loss)
    return fold_batch_norm(prepare(graph_module(export_model(net, task.example))))


def cut(
    net: nn.Module,
    example: tuple[Tensor, ...],
    calibrate: Subset,
    metric: str,
    *,
    fixed: Sequence[str],
    ratio: float,
    by: Literal["magnitude", "taylor"],
    loss: Loss | None = None,
) -> nn.Module:
    """A copy of ``net`` that torch-pruning made narrower; the modules named in ``fixed`` keep their outputs.

    Taylor's gradients are those of ``loss`` (outputs, target), by default of what the metric tells.
    """
    net = copy.deepcopy(net).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    with warnings.catch_warnings():
        # torch-pruning warns of parameters that it does not know; there are none whose shape matters.
        warnings.simplefilter("ignore")
        importance = (
            torch_pruning.importance.GroupMagnitudeImportance(p=2)
            if by == "magnitude"
            else torch_pruning.importance.GroupTaylorImportance()
        )
        pruner = torch_pruning.pruner.BasePruner(
            net,
            example,
            importance=importance,
            pruning_ratio=ratio,
            ignored_layers=[net.get_submodule(name) for name in fixed],
            round_to=ROUND_TO,
        )
        if by == "taylor":
            net.zero_grad()
            for item in calibrate.take(SCORED * BATCH).batches(BATCH):
                outputs = net(*item.inputs)
                value = task_loss(outputs, item, metric) if loss is None else loss(outputs, _given(item.target))
                value.backward()  # type: ignore[no-untyped-call]
        pruner.step()
    net.zero_grad(set_to_none=True)
    return net


def task_loss(output: Tensor, item: Batch, metric: str) -> Tensor:
    """What the network was trained for, as its metric tells: squared error for psnr, else cross entropy."""
    if metric == "psnr":
        return nn.functional.mse_loss(output, _given(item.target))
    return nn.functional.cross_entropy(output, _given(item.label if metric == "top1" else item.target))


def _given(reference: Tensor | None) -> Tensor:
    if reference is None:
        raise ValueError("the data holds nothing that the metric is held against")
    return reference
