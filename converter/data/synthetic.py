"""Inputs made up from a model's batch-norm statistics, where there is no data (`--data none`).

Inputs are moved by gradient until each batch norm sees the mean and variance that it recorded in training; class scores
are asked for classes in turn, so that inputs differ. Source: DeepInversion (Yin et al., CVPR 2020), without its teacher
and student, plus total variation. What is judged on such inputs is the agreement with the original, no accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional

from aslconvert.converter.data.columns import ArrayColumn
from aslconvert.converter.data.dataset import Dataset
from aslconvert.converter.data.inputs import InputSpec
from aslconvert.converter.data.metrics import flatten
from aslconvert.converter.data.split import assign
from aslconvert.converter.errors import UsageError
from aslconvert.converter.ir.graph import arguments, aten, attribute

NO_DATA = "none"
"""The data specification that asks for it."""

WARNING = (
    "The inputs are synthetic, made from batch-norm statistics: only the agreement with the original was judged, and "
    "on these inputs alone. Real inputs may fare far worse; give some with --data where you can."
)

SAMPLES = 512
BATCH = 64
ITERATIONS = 60
RATE = 0.1
CLASS_WEIGHT = 0.1
VARIATION_WEIGHT = 0.05


def synthetic_dataset(
    gm: fx.GraphModule,
    specs: Sequence[InputSpec],
    *,
    size: tuple[int, int] | None,
    seed: int,
    samples: int = SAMPLES,
    iterations: int = ITERATIONS,
    on_batch: Callable[[int, int], None] | None = None,
) -> Dataset:
    """``samples`` inputs for ``gm``, whose batch norms are not folded; ``size`` where its height and width may vary.

    Raises:
        UsageError: ``no_statistics`` without batch norms that recorded any, ``synthetic_inputs`` for inputs that are no
            floats or of unknown size.
    """
    if not _norms(gm):
        raise UsageError(
            "no_statistics",
            "The model has no batch norm with recorded statistics, from which inputs could be made.",
            hint="Give data with --data; a few hundred unlabelled inputs do.",
        )
    shapes = [_shape(spec, size) for spec in specs]
    # A whole number of the model's own batches, if it takes no others.
    batch = (specs[0].shape[0] if specs else None) or BATCH
    generator = torch.Generator().manual_seed(seed)
    parts = []
    total = max(-(-samples // batch), 1)
    for number in range(total):
        parts.append(_batch(gm, [(batch, *shape) for shape in shapes], iterations, generator))
        if on_batch is not None:
            on_batch(number + 1, total)
    columns = {
        spec.name: ArrayColumn(torch.cat([part[position] for part in parts]).numpy())
        for position, spec in enumerate(specs)
    }
    groups = np.arange(total * batch, dtype=np.int64)
    return Dataset(
        source=NO_DATA,
        inputs=columns,
        target=None,
        label=None,
        groups=groups,
        splits=assign(groups, [f"synthetic:{number}" for number in groups]),
        preprocessing="synthesised from batch-norm statistics",
        notes=(WARNING,),
    )


def mismatch(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> float:
    """How far the batch norms' inputs are from the recorded statistics, 0 where they agree; 1 is a whole deviation."""
    with torch.no_grad():
        return float(_Statistics(gm).loss_and_outputs(inputs)[0])


def _shape(spec: InputSpec, size: tuple[int, int] | None) -> tuple[int, ...]:
    shape = spec.shape[1:]
    if size is not None and len(shape) == 3:
        wanted = (shape[0], *size)
        shape = tuple(have if have is not None else want for have, want in zip(shape, wanted, strict=True))
    known = tuple(side for side in shape if side is not None)
    if not spec.dtype.is_floating_point or len(known) != len(shape):
        raise UsageError(
            "synthetic_inputs",
            f"Inputs like {spec} of type {spec.dtype} cannot be made up.",
            hint="Give --size where height and width may vary; other inputs need --data.",
        )
    return known


def _batch(
    gm: fx.GraphModule, shapes: Sequence[tuple[int, ...]], iterations: int, generator: torch.Generator
) -> list[Tensor]:
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    optimiser = torch.optim.Adam(inputs, lr=RATE, betas=(0.5, 0.9))
    statistics = _Statistics(gm)
    for iteration in range(iterations):
        optimiser.param_groups[0]["lr"] = RATE * (1 - iteration / iterations)
        loss, outputs = statistics.loss_and_outputs(inputs)
        for scores in outputs:
            if scores.dim() == 2 and scores.shape[1] > 1:
                wanted = torch.arange(len(scores)) % scores.shape[1]
                loss = loss + CLASS_WEIGHT * functional.cross_entropy(scores, wanted)
        for x in inputs:
            loss = loss + VARIATION_WEIGHT * _variation(x)
        for x, gradient in zip(inputs, torch.autograd.grad(loss, inputs), strict=True):
            x.grad = gradient
        optimiser.step()
    return [x.detach() for x in inputs]


def _variation(x: Tensor) -> Tensor:
    """Mean distance of neighbours along the spatial axes, relative to the spread."""
    steps = [x.diff(dim=axis).abs().mean() for axis in range(2, x.dim()) if x.shape[axis] > 1]
    return torch.stack(steps).mean() / x.std().clamp_min(1e-6) if steps else x.new_zeros(())


def _norms(gm: fx.GraphModule) -> list[fx.Node]:
    return [node for node in gm.graph.nodes if node.target is aten.batch_norm.default and _has_statistics(node)]


def _has_statistics(node: fx.Node) -> bool:
    call = arguments(node)
    stored = (call["running_mean"], call["running_var"])
    return not call["training"] and all(isinstance(part, fx.Node) and part.op == "get_attr" for part in stored)


class _Statistics(fx.Interpreter):
    """Runs the graph and gathers what its batch norms see."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self._recorded = {
            node: tuple(
                attribute(gm, arguments(node)[name].target).detach() for name in ("running_mean", "running_var")
            )
            for node in _norms(gm)
        }
        self._terms: list[Tensor] = []

    def loss_and_outputs(self, inputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The mean mismatch over all batch norms, and the model's float outputs."""
        self._terms = []
        outputs: Any = self.run(*inputs)
        floats = [o for o in flatten(outputs) if o.is_floating_point()]
        return torch.stack(self._terms).mean(), floats

    def run_node(self, n: fx.Node) -> Any:
        """The node's value; before a batch norm its input is compared with the recorded statistics."""
        if n in self._recorded:
            mean, variance = self._recorded[n]
            x = self.env[arguments(n)["input"]]
            axes = [axis for axis in range(x.dim()) if axis != 1]
            spread = (variance + arguments(n)["eps"]).sqrt()
            off = (x.mean(axes) - mean) / spread
            wider = (x.var(axes, unbiased=False) + arguments(n)["eps"]).sqrt() / spread - 1
            self._terms.append(off.square().mean() + wider.square().mean())
        return super().run_node(n)
