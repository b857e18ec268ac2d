"""Tucker-2: 1x1 to fewer channels, 3x3 among them, 1x1 back.

Source: Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
ICLR 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aslconvert.converter.ir.site import ConvSite
from peers.methods.chains import Chain, Stage, stepping
from peers.methods.tensors import need_tensorly

SHARES = (0.25, 0.4, 0.55)
"""Of the input's and of the output's channels."""


def tucker(weight: Tensor, bias: Tensor | None, site: ConvSite, *, share: float) -> Chain:
    """weight [O, C, 3, 3] -> [c, C, 1, 1], [o, c, 3, 3], [O, o, 1, 1] of ``share`` of the channels."""
    tensorly = need_tensorly()
    outputs, channels = weight.shape[:2]
    ranks = [max(1, round(outputs * share)), max(1, round(channels * share))]
    values = tensorly.tensor(weight.double().numpy())
    (core, (left, right)), _ = tensorly.decomposition.partial_tucker(values, rank=ranks, modes=[0, 1])
    core, left, right = (torch.from_numpy(part.copy()).float() for part in (core, left, right))
    return (
        Stage(right.T.contiguous()[:, :, None, None]),
        Stage(core, **stepping(site)),
        Stage(left[:, :, None, None], bias),
    )
