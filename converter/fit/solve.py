"""The weights of a site's rows by least squares with a ridge, and the error that is left."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aslconvert.converter.fit.dictionary import Dictionary
from aslconvert.converter.fit.moments import Moments
from aslconvert.converter.fit.pursuit import Pursuit, pursue
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.fit.sampled import SampledTaps
from aslconvert.converter.fit.statistics import TapStatistics

Statistics = TapStatistics | SampledTaps

RIDGE = 1e-6
"""Ridge relative to the mean variance of the chosen rows: enough to keep dead channels from being blown up."""

DEPTHWISE_RIDGE = 1e-2
"""Ridge of groups of one channel relative to the mean variance over all groups. A group's own mean does not protect it:
where the student's channel is nearly dead and the teacher's is not, the weight would be the ratio of the two."""

SCARCE = 4
"""Fewer positions than this many times the rows tell too little of them: the ridge is validated."""

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
"""What is tried where positions are scarce."""

LEAST_FREE = 1e-3
"""Share of the positions that must be left over: below it their rounding decides."""

FLAT = 4e-6
"""Moments are products in float32: a variance below this share of the squared mean is rounding of a constant row."""


def fit_block(
    statistics: Statistics,
    dictionary: Dictionary,
    *,
    rows: int,
    weighting: Tensor | None = None,
    ridge: float = RIDGE,
    per_channel: int | None = None,
) -> tuple[Block, float]:
    """The block of ``rows`` rows and its relative error ||y - P s||^2 / ||y - E[y]||^2 on the statistics.

    weighting: [O, O] square root W of an importance matrix of the outputs; the pursuit then weighs errors by
    ||W^T e||. The least-squares weights do not depend on it, the choice of rows does. ``per_channel`` as in ``pursue``.
    """
    order = order_rows(statistics, dictionary, rows=rows, weighting=weighting, per_channel=per_channel)
    return solve_rows(statistics, dictionary, order, rows=rows, ridge=ridge)


def order_rows(
    statistics: Statistics,
    dictionary: Dictionary,
    *,
    rows: int,
    weighting: Tensor | None = None,
    per_channel: int | None = None,
) -> list[Pursuit]:
    """The pursuit's order of rows, one for each group; prefixes serve every smaller K."""
    groups = statistics.groups
    found = []
    for group in range(groups):
        moments = statistics.moments(group)
        # With one output a group, weighting an error only scales it.
        part = None if weighting is None or len(moments.target_mean) == 1 else weighting.chunk(groups)[group]
        found.append(pursue(moments, dictionary, rows=max(rows // groups, 1), weighting=part, per_channel=per_channel))
    return found


def solve_rows(
    statistics: Statistics,
    dictionary: Dictionary,
    order: Sequence[Pursuit],
    *,
    rows: int,
    ridge: float = RIDGE,
    scarce: float = SCARCE,
) -> tuple[Block, float]:
    """The block of the first ``rows`` rows of ``order`` and its relative squared error.

    Groups must have equally many rows: one that runs out of them repeats a row with weight zero.
    """
    groups = statistics.groups
    share = max(rows // groups, 1)
    least = 0.0
    if statistics.channels == groups > 1:
        taps = dictionary.mix.shape[1]
        variances = [statistics.moments(group).own(taps).diagonal(dim1=1, dim2=2).mean() for group in range(groups)]
        least = DEPTHWISE_RIDGE * float(torch.stack(variances).mean())
    blocks, lost, total = [], 0.0, 0.0
    for group, pursuit in enumerate(order):
        moments = statistics.moments(group)
        chosen = pursuit.channel[:share], pursuit.atom[:share]
        block, error = solve_block(moments, dictionary, *chosen, ridge=ridge, least=least, scarce=scarce)
        energy = float(moments.target_variance.sum())
        lost, total = lost + error * energy, total + energy
        blocks.append(block)
    if groups == 1:
        return blocks[0], lost / total if total > 0 else 0.0
    most = max(block.rows for block in blocks)
    inner = statistics.channels // groups
    block = Block(
        source=torch.cat([_repeat(b.source, most) + group * inner for group, b in enumerate(blocks)]),
        shift=torch.cat([_repeat(b.shift, most) for b in blocks]),
        weight=torch.cat([torch.nn.functional.pad(b.weight, (0, most - b.rows)) for b in blocks]),
        bias=torch.cat([b.bias for b in blocks if b.bias is not None]),
    )
    return block, lost / total if total > 0 else 0.0


def _repeat(rows: Tensor, length: int) -> Tensor:
    return torch.cat([rows, rows[-1:].expand(length - len(rows), *rows.shape[1:])])


def solve_block(
    moments: Moments,
    dictionary: Dictionary,
    channel: Tensor,
    atom: Tensor,
    *,
    ridge: float = RIDGE,
    least: float = 0.0,
    scarce: float = SCARCE,
) -> tuple[Block, float]:
    """P = Cov(y, s) (Cov(s, s) + ridge)^-1 for given rows s of one group, and bias = E[y] - P E[s].

    ``ridge`` is relative to the mean variance of the rows, ``least`` the smallest absolute one. With fewer positions
    than ``scarce`` times the rows the ridge is validated.
    """
    order = torch.argsort(channel * dictionary.size + atom)
    channel, atom = channel[order], atom[order]
    taps = dictionary.mix.shape[1]
    mix = dictionary.mix[atom]
    index = channel[:, None] * taps + torch.arange(taps)
    rows_cov = moments.among(index, mix)
    rows_cross = torch.einsum("kt,kto->ko", mix, moments.cross[index])
    rows_mean = (mix * moments.tap_mean[index]).sum(1)
    rows_cross = rows_cross * (rows_cov.diagonal() > FLAT * rows_mean.square())[:, None]
    if moments.count < scarce * len(channel):
        total = float(moments.target_variance.sum())
        ridge = validated_ridge(rows_cov, rows_cross, total, moments.count, least=ridge)
    added = max(ridge * float(rows_cov.diagonal().mean()), least) + torch.finfo(torch.float32).tiny
    damped = rows_cov + torch.eye(len(channel), dtype=rows_cov.dtype) * added
    weight = torch.linalg.solve(damped, rows_cross).T
    bias = moments.target_mean - weight @ rows_mean
    explained = 2 * (weight * rows_cross.T).sum() - ((weight @ rows_cov) * weight).sum()
    energy = moments.target_variance.sum()
    error = float(((energy - explained) / energy.clamp_min(torch.finfo(energy.dtype).tiny)).clamp_min(0.0))
    block = Block(
        source=channel,
        shift=dictionary.shift[atom].float(),
        weight=weight.float().contiguous(),
        bias=bias.float(),
    )
    return block, error


def validated_ridge(covariance: Tensor, cross: Tensor, energy: float, count: int, *, least: float = RIDGE) -> float:
    """The ridge, relative to the mean variance, that ``count`` positions support; at least ``least``.

    With fewer positions than rows least squares reproduces them all and multiplies whatever comes next by anything.
    Deep layers of small images get there easily, and the errors of successive layers multiply. The ridge with the
    least generalised cross-validation RSS / (1 - df / n)^2 (Golub, Heath & Wahba 1979) is taken: like leaving out one
    position at a time, from the moments alone. covariance [K, K] and cross [K, O] of the rows, centred; energy is the
    summed variance of the target.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0.0)
    seen = (vectors.T @ cross).square().sum(1)
    scale = float(covariance.diagonal().mean())
    best, lowest = max(RIDGES), float("inf")
    for ridge in (least, *(ridge for ridge in RIDGES if ridge > least)):
        damped = values + ridge * scale + torch.finfo(torch.float32).tiny
        # The mean has taken one position.
        free = 1 - float((values / damped).sum()) / max(count - 1, 1)
        left = energy - float((seen * (2 / damped - values / damped.square())).sum())
        score = max(left, FLAT * energy) / free**2 if free > LEAST_FREE else float("inf")
        if score < lowest:
            best, lowest = ridge, score
    return best
