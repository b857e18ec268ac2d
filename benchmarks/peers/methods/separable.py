"""Depthwise 3x3 of several filters a channel, then 1x1: the nearest in the weights, its 1x1 then fitted to data.

With M filters a channel, the slice W[:, c] (outputs by taps) becomes its best approximation of rank M. Nine filters
are the convolution itself. To weigh the taps by how they vary on calibration data was tried, and was no better once the
1x1 is fitted. Source: Guo et al., "Network Decoupling", BMVC 2018, in its form with one pointwise product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aslconvert.converter.ir.site import ConvSite
from peers.methods.chains import Chain, Stage, stepping

MULTIPLIERS = (1, 2, 3)


def separable(weight: Tensor, bias: Tensor | None, site: ConvSite, *, multiplier: int) -> Chain:
    """weight [O, C, 3, 3] -> depthwise [C * multiplier, 1, 3, 3], pointwise [O, C * multiplier, 1, 1]."""
    outputs, channels = weight.shape[:2]
    slices = weight.double().flatten(2).transpose(0, 1)
    left, strength, filters = torch.linalg.svd(slices, full_matrices=False)
    # Filters are of unit size, as all of them are trained at one rate.
    count = min(multiplier, strength.shape[1])
    mixing = left[:, :, :count] * strength[:, None, :count]
    depthwise = filters[:, :count].reshape(channels * count, 1, 3, 3).float()
    pointwise = mixing.permute(1, 0, 2).reshape(outputs, channels * count, 1, 1).float()
    return (Stage(depthwise, **stepping(site), groups=channels), Stage(pointwise, bias))
