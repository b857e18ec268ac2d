"""The weights of a site's rows by least squares with a ridge, and the error that is left."""

from __future__ import annotations

import torch
from torch import Tensor

from aslconvert.converter.fit.dictionary import Dictionary
from aslconvert.converter.fit.pursuit import Pursuit, pursue
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.fit.statistics import TapStatistics

RIDGE = 1e-6
"""Ridge relative to the mean variance of the chosen rows: enough to keep dead channels from being blown up."""


def fit_block(
    statistics: TapStatistics,
    dictionary: Dictionary,
    *,
    rows: int,
    weighting: Tensor | None = None,
    ridge: float = RIDGE,
) -> tuple[Block, float]:
    """The block of ``rows`` rows and its relative error ||y - P s||^2 / ||y - E[y]||^2 on the statistics.

    weighting: [O, O] square root W of an importance matrix of the outputs; the pursuit then weighs errors by
    ||W^T e||. The least-squares weights do not depend on it, the choice of rows does.
    """
    pursuit = choose_rows(statistics, dictionary, rows=rows, weighting=weighting)
    return solve_block(statistics, dictionary, pursuit.channel[:rows], pursuit.atom[:rows], ridge=ridge)


def choose_rows(
    statistics: TapStatistics, dictionary: Dictionary, *, rows: int, weighting: Tensor | None = None
) -> Pursuit:
    """The pursuit's order of rows for a site; prefixes serve every smaller K."""
    cross = statistics.cross
    if weighting is None:
        energy = float(statistics.target_variance.sum())
        return pursue(statistics.covariance, cross, energy, dictionary, rows=rows)
    # The weighted energy needs the targets' full covariance; only ratios matter to the pursuit, so the
    # diagonal in the weighting's own basis is enough.
    weighted = cross @ weighting.to(cross)
    energy = float((statistics.target_variance * weighting.to(cross).square().sum(1)).sum())
    return pursue(statistics.covariance, weighted, energy, dictionary, rows=rows)


def solve_block(
    statistics: TapStatistics, dictionary: Dictionary, channel: Tensor, atom: Tensor, *, ridge: float = RIDGE
) -> tuple[Block, float]:
    """P = Cov(y, s) (Cov(s, s) + ridge)^-1 for given rows s, and bias = E[y] - P E[s]."""
    order = torch.argsort(channel * dictionary.size + atom)
    channel, atom = channel[order], atom[order]
    taps = dictionary.mix.shape[1]
    mix = dictionary.mix[atom]
    index = channel[:, None] * taps + torch.arange(taps)
    covariance = statistics.covariance
    gathered = covariance[index.flatten()].view(len(channel), taps, -1)
    half = torch.einsum("kt,ktd->kd", mix, gathered)
    rows_cov = torch.einsum("kt,jkt->jk", mix, half[:, index.flatten()].view(len(channel), len(channel), taps))
    rows_cross = torch.einsum("kt,kto->ko", mix, statistics.cross[index])
    rows_mean = (mix * statistics.tap_mean[index]).sum(1)
    damped = rows_cov + torch.eye(len(channel), dtype=rows_cov.dtype) * (
        ridge * rows_cov.diagonal().mean() + torch.finfo(torch.float32).tiny
    )
    weight = torch.linalg.solve(damped, rows_cross).T
    bias = statistics.target_mean - weight @ rows_mean
    explained = 2 * (weight * rows_cross.T).sum() - ((weight @ rows_cov) * weight).sum()
    energy = statistics.target_variance.sum()
    error = float(((energy - explained) / energy.clamp_min(torch.finfo(energy.dtype).tiny)).clamp_min(0.0))
    block = Block(
        source=channel,
        shift=dictionary.shift[atom].float(),
        weight=weight.float().contiguous(),
        bias=bias.float(),
    )
    return block, error
