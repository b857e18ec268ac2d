"""How much the model's output depends on each channel combination of a site's output: the fit's weighting.

E[g g^T] over positions, with g the gradient of a random +-1 mix of the output elements, is the Gauss-Newton matrix of
the squared output error with respect to the site's output (Hutchinson's estimator). An error e of the site then costs
about e^T E[g g^T] e.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from aslconvert.converter.data.metrics import flatten
from aslconvert.converter.fit.phases import split_phases
from aslconvert.converter.fit.pure import PureInterpreter
from aslconvert.converter.ir.site import ConvSite

DAMPING = 1e-3
"""Share of the mean importance that every direction keeps, so that no output is given up."""


def output_importance(
    gm: fx.GraphModule, sites: Sequence[ConvSite], batches: Sequence[tuple[Tensor, ...]], *, seed: int
) -> dict[str, Tensor]:
    """Symmetric square root W [O, O], float64, of each site's importance; mean diagonal of W W^T is one."""
    if not sites:
        return {}
    generator = torch.Generator().manual_seed(seed)
    nodes = {site.node: site for site in sites}
    sums: dict[str, Tensor] = {}
    for batch in batches:
        recorder = _Recorder(gm, set(nodes))
        with torch.enable_grad():
            outputs = [o for o in flatten(recorder.run(*batch)) if o.is_floating_point() and o.requires_grad]
            probe = sum(
                (out * _signs(out, generator) / out.detach().square().mean().sqrt().clamp_min(1e-12)).sum()
                for out in outputs
            )
            if not isinstance(probe, Tensor):
                return {}
            recorded = recorder.recorded
            gradients = torch.autograd.grad(probe, list(recorded.values()), allow_unused=True)
        for name, gradient in zip(recorded, gradients, strict=True):
            if gradient is not None:
                flat = split_phases(nodes[name], gradient).transpose(0, 1).flatten(1)
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + (flat @ flat.T).double()
    return {nodes[name].name: _square_root(matrix) for name, matrix in sums.items()}


class _Recorder(PureInterpreter):
    """Runs the graph and keeps the outputs of some nodes attached for autograd."""

    def __init__(self, gm: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(gm)
        self._wanted = wanted
        self.recorded: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self._wanted and isinstance(value, Tensor):
            value = value if value.requires_grad else value.detach().requires_grad_()
            self.recorded[n.name] = value
        return value


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).to(like) * 2 - 1


def _square_root(matrix: Tensor) -> Tensor:
    scale = matrix.diagonal().mean().clamp_min(torch.finfo(matrix.dtype).tiny)
    damped = matrix / scale + DAMPING * torch.eye(len(matrix), dtype=matrix.dtype)
    values, vectors = torch.linalg.eigh(damped)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
