"""Choose the K rows of a site by orthogonal matching pursuit on second moments, all outputs at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aslconvert.converter.fit.dictionary import Dictionary
from aslconvert.converter.threads import torch_threads

DEPENDENT = 1e-7
"""An atom whose part orthogonal to the chosen ones falls below this share of its variance brings nothing new."""


@dataclass(frozen=True)
class Pursuit:
    """Rows in the order of choice and the relative error after each: a prefix of k rows is the pursuit's answer for k.

    channel, atom: int64 [K]; error: [K], squared residual over squared target (both centred and weighted).
    """

    channel: Tensor
    atom: Tensor
    error: Tensor


def pursue(covariance: Tensor, cross: Tensor, target_energy: float, dictionary: Dictionary, *, rows: int) -> Pursuit:
    """Greedy choice of ``rows`` atoms, each the one that lowers the summed squared error most given those before it.

    covariance [C * T, C * T] and cross [C * T, O] are centred moments of the taps and the (weighted) target;
    target_energy the summed variance of that target. Atoms are mixes of taps, so no other statistic is needed:
    an atom's column of the atoms' Gram matrix is made when it is chosen. Cost: rows * C * A * (rows + O).
    Returns fewer rows, at least one, when the atoms that are left depend linearly on the chosen ones.
    Source: orthogonal least squares (Chen, Billings & Luo 1989) for several outputs.
    """
    # Thousands of small products, each shorter than waking a second thread takes.
    with torch_threads(1):
        return _pursue(covariance, cross, target_energy, dictionary, rows)


def _pursue(covariance: Tensor, cross: Tensor, target_energy: float, dictionary: Dictionary, rows: int) -> Pursuit:
    mix = dictionary.mix.to(covariance)
    atoms, taps = mix.shape
    channels = covariance.shape[0] // taps
    residual = _apply(mix, cross, channels)
    blocks = covariance.view(channels, taps, channels, taps)
    own = torch.diagonal(blocks, dim1=0, dim2=2).permute(2, 0, 1)
    norm = torch.einsum("at,ctu,au->ca", mix, own, mix).flatten()
    floor = norm.clamp_min(torch.finfo(norm.dtype).tiny) * DEPENDENT
    basis = residual.new_zeros(rows, residual.shape[0])
    chosen: list[int] = []
    errors: list[float] = []
    left = target_energy
    for k in range(min(rows, residual.shape[0])):
        gain = residual.square().sum(1) / norm
        gain[norm <= floor] = -1.0
        best = int(gain.argmax())
        if gain[best] < 0:
            break
        column = covariance.view(-1, channels, taps)[:, best // atoms] @ mix[best % atoms]
        direction = _apply(mix, column[:, None], channels)[:, 0]
        direction -= basis[:k, best] @ basis[:k]
        direction /= norm[best].sqrt()
        share = residual[best] / norm[best].sqrt()
        basis[k] = direction
        residual.addr_(direction, share, alpha=-1)
        norm = norm - direction.square()
        norm[best] = 0.0
        left -= float(share.square().sum())
        chosen.append(best)
        errors.append(max(left, 0.0) / target_energy if target_energy > 0 else 0.0)
    if not chosen:
        # Nothing varies in the input: one row of weight zero, since a site without rows is no convolution.
        chosen, errors = [0], [1.0 if target_energy > 0 else 0.0]
    index = torch.tensor(chosen, dtype=torch.int64)
    return Pursuit(channel=index // atoms, atom=index % atoms, error=torch.tensor(errors))


def _apply(mix: Tensor, per_tap: Tensor, channels: int) -> Tensor:
    """Turn rows per tap [C * T, O] into rows per atom [C * A, O]."""
    outputs = per_tap.shape[1]
    return torch.einsum("at,cto->cao", mix, per_tap.reshape(channels, -1, outputs)).reshape(-1, outputs)
