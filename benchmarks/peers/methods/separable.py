"""Depthwise 3x3 of several filters a channel, then 1x1: the decomposition nearest on the data, refitted.

With M filters a channel, the slice W[:, c] (outputs by taps) becomes its best approximation of rank M, errors weighed
by how the channel's taps vary. Nine filters are the convolution itself. Source: Guo et al., "Network Decoupling",
BMVC 2018, in its form with one pointwise product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aslconvert.converter.ir.site import ConvSite
from peers.methods.chains import Chain, Stage, stepping

MULTIPLIERS = (1, 2, 3)
DAMPING = 1e-4
"""Share of the mean variance that every tap keeps, so that no direction is given up."""


def separable(
    weight: Tensor, bias: Tensor | None, site: ConvSite, covariance: Tensor | None, *, multiplier: int
) -> Chain:
    """weight [O, C, 3, 3] -> depthwise [C * multiplier, 1, 3, 3], pointwise [O, C * multiplier, 1, 1]."""
    outputs, channels = weight.shape[:2]
    slices = weight.double().flatten(2).transpose(0, 1)
    if covariance is None:
        root = inverse = torch.eye(9, dtype=torch.float64).expand(channels, 9, 9)
    else:
        root, inverse = _roots(covariance)
    left, strength, right = torch.linalg.svd(slices @ root, full_matrices=False)
    count = min(multiplier, strength.shape[1])
    filters = right[:, :count] @ inverse
    mixing = left[:, :, :count] * strength[:, None, :count]
    # Filters of about unit size, so that healing takes alike steps in both stages.
    size = filters.norm(dim=2).clamp_min(1e-12)
    filters, mixing = filters / size[:, :, None], mixing * size[:, None]
    depthwise = filters.reshape(channels * count, 1, 3, 3).float()
    pointwise = mixing.permute(1, 0, 2).reshape(outputs, channels * count, 1, 1).float()
    return (Stage(depthwise, **stepping(site), groups=channels), Stage(pointwise, bias))


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric square roots of the matrices [C, 9, 9], and their inverses."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0)
    values = values + DAMPING * values.mean(1, keepdim=True) + 1e-12
    root = values.sqrt()
    return (vectors * root[:, None]) @ vectors.mT, (vectors / root[:, None]) @ vectors.mT
