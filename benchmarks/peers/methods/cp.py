"""CP: 1x1 to R rows, one 3x3 filter on each, 1x1 back.

The taps count as one mode of nine: at a convolution's usual R one depthwise 3x3 costs what a column and a row filter
would, and it can be any filter. Source: Lebedev et al., "Speeding-up Convolutional Neural Networks Using Fine-tuned
CP-Decomposition", ICLR 2015.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from aslconvert.converter.ir.site import ConvSite
from peers.methods.chains import Chain, Stage, stepping
from peers.methods.tensors import need_tensorly

SHARES = (1.0, 1.5, 2.5)
"""R over the larger number of channels."""

ITERATIONS = 60
"""Of alternating least squares; the refit and healing go on from there."""

DAMPING = 1e-6
"""Ridge over the squared norm of the weight. Without it terms grow that cancel each other, which healing disturbs."""


def cp(
    weight: Tensor,
    bias: Tensor | None,
    site: ConvSite,
    *,
    share: float,
    iterations: int = ITERATIONS,
    damping: float = DAMPING,
) -> Chain:
    """weight [O, C, 3, 3] -> [R, C, 1, 1], depthwise [R, 1, 3, 3], [O, R, 1, 1]."""
    tensorly = need_tensorly()
    outputs, channels = weight.shape[:2]
    rank = max(1, round(max(outputs, channels) * share))
    with warnings.catch_warnings():
        # Terms beyond a mode's size start at random, which tensorly warns of.
        warnings.simplefilter("ignore", UserWarning)
        strength, (left, right, taps) = tensorly.decomposition.parafac(
            tensorly.tensor(weight.double().flatten(2).numpy()),
            rank=rank,
            n_iter_max=iterations,
            init="svd",
            normalize_factors=True,
            l2_reg=damping * float(weight.double().square().sum()),
            tol=1e-9,
            random_state=0,
        )
    left, right, taps = (torch.from_numpy(part.copy()) for part in (left, right, taps))
    # The strength of a term is dealt out evenly, so that healing takes alike steps in all stages.
    root = torch.from_numpy(strength.copy()).clamp_min(0).pow(1 / 2)
    return (
        Stage((right * root).T.contiguous().float()[:, :, None, None]),
        Stage(taps.T.reshape(rank, 1, 3, 3).float(), **stepping(site), groups=rank),
        Stage((left * root).float()[:, :, None, None], bias),
    )
