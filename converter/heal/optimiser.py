"""The optimiser of healing: orthogonalised momentum for weight matrices, Adam for biases, normalised SGD for shifts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from aslconvert.converter.threads import torch_threads

BASE_RATE = 3e-3
"""Step of a weight matrix relative to its own size. A good start must be healed gently."""

BIAS_RATE = 3e-4
SHIFT_RATE = 0.01
"""Shift learning rate relative to the base rate of the published recipe (see SHIFT_BASE)."""

SHIFT_BASE = 0.1
"""The recipe's base rate. A normalised gradient moves a row's shift by SHIFT_BASE * SHIFT_RATE pixels a step, with
momentum by up to 1 / (1 - MOMENTUM) times that."""

MOMENTUM = 0.9
GRAM_RATIO = 4
"""Matrices so many times as wide as they are high are orthogonalised on their Gram matrix: 1.9 times as fast at 256 x
1152, a dense layer's, which took three quarters of a step of healing beside small convolutions."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that drives singular values towards one (Jordan et al. 2024)."""


class OrthogonalMomentum(torch.optim.Optimizer):
    """Nesterov momentum whose update of every matrix is replaced by the nearest orthogonal one.

    A tensor [O, ...] is seen as a matrix [O, rest]. The update's size is ``lr`` times the matrix's own mean singular
    value at the start, so that one rate serves layers of any scale. Source: Muon (Jordan et al. 2024).
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float = BASE_RATE, momentum: float = MOMENTUM) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; ``closure`` is not supported and must be None."""
        if closure is not None:
            raise ValueError("OrthogonalMomentum takes no closure")
        # Small matrices: a second thread costs more to wake than it saves.
        with torch_threads(1):
            self._update()
        return None

    def _update(self) -> None:
        for group in self.param_groups:
            moving: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    moving.setdefault(self._like(parameter), []).append(parameter)
            for parameters in moving.values():
                self._move(parameters, group["lr"], group["momentum"])

    def _like(self, parameter: Tensor) -> tuple[int, ...]:
        # A GPU takes as long to start on a small matrix as on all of one shape; a core has nothing to gain.
        return (*parameter.flatten(1).shape,) if parameter.is_cuda else (id(parameter),)

    def _move(self, parameters: list[Tensor], rate: float, momentum: float) -> None:
        directions, sizes = [], []
        for parameter in parameters:
            if parameter.grad is None:
                raise ValueError("a parameter without a gradient does not move")
            gradient = parameter.grad.flatten(1)
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(gradient)
                state["size"] = _mean_singular_value(parameter.flatten(1))
            average: Tensor = state["momentum"]
            average.lerp_(gradient, 1 - momentum)
            directions.append(gradient.lerp(average, momentum))
            sizes.append(state["size"])
        updates = orthogonalise(torch.stack(directions)) if len(directions) > 1 else [orthogonalise(directions[0])]
        for parameter, update, size in zip(parameters, updates, sizes, strict=True):
            parameter.sub_(update.view_as(parameter) * (rate * size))


def orthogonalise(matrix: Tensor, *, iterations: int = 5) -> Tensor:
    """Approximately U V^T of the singular value decomposition of ``matrix`` [..., m, n]; zero stays zero."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = matrix.mT if tall else matrix
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
    a, b, c = NEWTON_SCHULZ
    if x.shape[-1] >= GRAM_RATIO * x.shape[-2]:
        x = _by_gram(x, iterations)
        return x.mT if tall else x
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def _by_gram(x: Tensor, iterations: int) -> Tensor:
    """The same steps of a wide matrix on its Gram matrix: every factor is a polynomial of it, and these commute."""
    a, b, c = NEWTON_SCHULZ
    gram = x @ x.mT
    unit = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    product = unit
    for step in range(iterations):
        factor = a * unit + b * gram + c * gram @ gram
        product = factor @ product if step else factor
        if step + 1 < iterations:
            gram = factor @ gram @ factor
    return product @ x


def _mean_singular_value(matrix: Tensor) -> Tensor:
    mean: Tensor = matrix.norm() / min(matrix.shape) ** 0.5
    return mean.clamp_min(1e-6)


class ShiftGradients:
    """Divides every row's shift gradient by its L2 norm, once per optimiser step (zero stays zero)."""

    def __init__(self, shifts: Iterable[Tensor]) -> None:
        self.shifts = list(shifts)

    def normalise(self) -> None:
        """Call after the backward passes of a step and before its update."""
        for shift in self.shifts:
            if shift.grad is not None:
                norm = shift.grad.norm(dim=1, keepdim=True)
                shift.grad.div_(torch.where(norm > 0, norm, torch.ones_like(norm)))


def shift_names(gm: fx.GraphModule) -> set[str]:
    """Fully qualified names of the parameters that are shifts of an active shift op in the graph."""
    names = set()
    for node in gm.graph.nodes:
        if node.op == "call_function" and node.target is torch.ops.asl.active_shift.default:
            shift = node.args[1]
            if isinstance(shift, fx.Node) and shift.op == "get_attr":
                names.add(str(shift.target))
    return names


def build_optimisers(gm: nn.Module, shifts: set[str]) -> tuple[list[torch.optim.Optimizer], ShiftGradients]:
    """Optimisers over every floating-point parameter of ``gm``; no weight decay, on shifts least of all."""
    matrices: list[Tensor] = []
    vectors: list[Tensor] = []
    moved: list[Tensor] = []
    for name, parameter in gm.named_parameters():
        if not parameter.requires_grad:
            continue
        (moved if name in shifts else matrices if parameter.dim() > 1 else vectors).append(parameter)
    optimisers: list[torch.optim.Optimizer] = []
    if matrices:
        optimisers.append(OrthogonalMomentum(matrices))
    if vectors:
        optimisers.append(torch.optim.Adam(vectors, lr=BIAS_RATE, betas=(0.9, 0.99)))
    if moved:
        rate = SHIFT_BASE * SHIFT_RATE
        optimisers.append(torch.optim.SGD(moved, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=0.0))
    return optimisers, ShiftGradients(moved)


def base_rates(optimisers: Iterable[torch.optim.Optimizer]) -> list[list[float]]:
    """The learning rates as they are now, group by group."""
    return [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]


def set_rates(optimisers: Iterable[torch.optim.Optimizer], rates: list[list[float]], factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its base rate."""
    for optimiser, bases in zip(optimisers, rates, strict=True):
        groups: list[dict[str, Any]] = optimiser.param_groups
        for group, base in zip(groups, bases, strict=True):
            group["lr"] = base * factor
