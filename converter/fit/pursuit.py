"""Choose the K rows of a site by orthogonal matching pursuit on second moments, all outputs at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aslconvert.converter.fit.dictionary import Dictionary
from aslconvert.converter.fit.moments import Moments
from aslconvert.converter.threads import torch_threads

DEPENDENT = 1e-7
"""An atom whose part orthogonal to the chosen ones falls below this share of its variance brings nothing new."""

SHORTLIST = 4
"""Rows that are chosen together come from this many times as many, the best by themselves."""

AT_ONCE = 1.2e10
"""Numbers that a pursuit may read choosing row by row; wider sites choose several rows together."""

SMALL = 1 << 20
"""Moments of fewer numbers make products that are shorter than waking a second thread takes."""


@dataclass(frozen=True)
class Pursuit:
    """Rows in the order of choice and the relative error after each: a prefix of k rows is the pursuit's answer for k.

    Of rows that were chosen together the best comes first, but a prefix that ends among them had other candidates.

    channel, atom: int64 [K]; error: [K], squared residual over squared target (both centred and weighted).
    """

    channel: Tensor
    atom: Tensor
    error: Tensor


def pursue(
    moments: Moments,
    dictionary: Dictionary,
    *,
    rows: int,
    weighting: Tensor | None = None,
    together: int | None = None,
    per_channel: int | None = None,
) -> Pursuit:
    """Greedy choice of ``rows`` atoms, each the one that lowers the summed squared error most given those before it.

    ``weighting`` [O, O] is a square root W of an importance matrix of the outputs: errors weigh ||W^T e||. Returns
    fewer rows, at least one, when the atoms that are left depend linearly on the chosen ones. ``together`` rows at a
    time are chosen from a shortlist, of which each knows those before it, but whose members were listed without; by
    default one, and more where reading the moments for every single row would take minutes. No channel gives more than
    ``per_channel`` rows, where that is given.

    Atoms are mixes of taps, so everything is kept per tap: the chosen rows' orthogonal directions [K, D] and their
    shares of the targets [K, O]. An atom's residual itself is never stored, only its norm, which a new direction d with
    share s lowers by 2 d <r, s> - d^2 |s|^2. Cost: rows * D * (O + rows), a 25th of what all atoms' residuals take.
    Source: orthogonal least squares (Chen, Billings & Luo 1989) for several outputs.
    """
    cross = moments.cross
    energy = float(moments.target_variance.sum())
    if weighting is not None:
        # The weighted energy needs the targets' full covariance; only ratios matter to the pursuit, so the
        # diagonal in the weighting's own basis is enough.
        energy = float((moments.target_variance * weighting.to(cross).square().sum(1)).sum())
        cross = cross @ weighting.to(cross)
    if together is None:
        together = choose_together(moments, rows)
    with torch_threads(1 if cross.numel() < SMALL else torch.get_num_threads()):
        return _Search(moments, cross, dictionary, rows, per_channel).run(together, energy)


def choose_together(moments: Moments, rows: int) -> int:
    """How many rows to choose at a time: a power of two."""
    taps, outputs = moments.cross.shape
    reads = rows * (taps * (outputs + rows / 2) + moments.column_reads)
    together = 1
    while reads / together > AT_ONCE:
        together *= 2
    return together


class _Search:
    def __init__(
        self, moments: Moments, cross: Tensor, dictionary: Dictionary, rows: int, per_channel: int | None
    ) -> None:
        self._moments = moments
        self._cross = cross
        self._mix = mix = dictionary.mix.to(cross)
        self._taps = mix.shape[1]
        by_channel = cross.view(-1, self._taps, cross.shape[1])
        self._energy = torch.einsum("at,ctu,au->ca", mix, by_channel @ by_channel.mT, mix).flatten()
        self._norm = torch.einsum("at,ctu,au->ca", mix, moments.own(self._taps), mix).flatten()
        self._floor = self._norm.clamp_min(torch.finfo(cross.dtype).tiny) * DEPENDENT
        rows = min(rows, self._norm.numel())
        self._basis = cross.new_zeros(rows, cross.shape[0])
        self._shares = cross.new_zeros(rows, cross.shape[1])
        self._chosen: list[int] = []
        # How many more rows each channel may give.
        channels = self._norm.numel() // len(mix)
        self._room = torch.full((channels,), len(mix) if per_channel is None else per_channel)

    def run(self, together: int, energy: float) -> Pursuit:
        """Choose until there are enough rows, or nothing new is left."""
        rows = len(self._basis)
        while len(self._chosen) < rows and self._step(min(together, rows - len(self._chosen))):
            pass
        if not self._chosen:
            # Nothing varies in the input: one row of weight zero, since a site without rows is no convolution.
            index, left = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.float64)
        else:
            index = torch.tensor(self._chosen, dtype=torch.int64)
            found = self._shares[: len(index)].square().sum(1).cumsum(0)
            left = (1 - found / energy).clamp_min(0.0) if energy > 0 else torch.zeros_like(found)
        left = left if energy > 0 else torch.zeros_like(left)
        return Pursuit(channel=index // len(self._mix), atom=index % len(self._mix), error=left.float())

    def _step(self, width: int) -> int:
        """Choose at most ``width`` rows; returns how many."""
        gain = torch.where(self._norm > self._floor, self._energy / self._norm, -1.0)
        listed = gain.argmax()[None] if width == 1 else gain.topk(min(SHORTLIST * width, gain.numel())).indices
        listed = listed[gain[listed] >= 0]
        if not len(listed):
            return 0
        known = len(self._chosen)
        basis, shares = self._basis[:known], self._shares[:known]
        index = (listed // len(self._mix))[:, None] * self._taps + torch.arange(self._taps)
        mix = self._mix[listed % len(self._mix)]
        before = torch.einsum("kmt,mt->mk", basis[:, index], mix)
        residual = torch.einsum("mt,mto->mo", mix, self._cross[index]) - before @ shares
        if width == 1:
            picked, lower = [0], self._norm[listed].sqrt()[:, None]
        else:
            covariance = self._moments.among(index, mix) - before @ before.T
            picked, lower = _pick(
                covariance, residual, self._floor[listed], width, channel=listed // len(self._mix), room=self._room
            )
        if not picked:
            return 0
        found = torch.linalg.solve_triangular(lower, residual[picked], upper=False)
        # One reading of the directions so far serves the new ones and the slope of the residuals along their shares.
        along = basis.T @ torch.cat([before[picked].T, shares @ found.T], 1)
        column = self._moments.columns(index[picked], mix[picked]) - along[:, : len(picked)]
        direction = torch.linalg.solve_triangular(lower, column.T, upper=False)
        slope = self._cross @ found.T - along[:, len(picked) :]
        self._basis[known : known + len(picked)] = direction
        self._shares[known : known + len(picked)] = found
        per_atom, slope = self._per_atom(direction.T), self._per_atom(slope)
        lowered = 2 * (per_atom * slope).sum(1) - ((per_atom @ (found @ found.T)) * per_atom).sum(1)
        self._energy = (self._energy - lowered).clamp_min(0.0)
        self._norm = self._norm - per_atom.square().sum(1)
        self._norm[listed[picked]] = 0.0
        self._room -= torch.bincount(listed[picked] // len(self._mix), minlength=len(self._room))
        self._norm.view(len(self._room), -1)[self._room < 1] = 0.0
        self._chosen += listed[picked].tolist()
        return len(picked)

    def _per_atom(self, per_tap: Tensor) -> Tensor:
        """Turn columns per tap [D, n] into columns per atom [C * A, n]."""
        width = per_tap.shape[1]
        return torch.einsum("at,ctn->can", self._mix, per_tap.reshape(-1, self._taps, width)).reshape(-1, width)


def _pick(
    covariance: Tensor, residual: Tensor, floor: Tensor, width: int, *, channel: Tensor, room: Tensor
) -> tuple[list[int], Tensor]:
    """At most ``width`` of a shortlist, greedily, and the Cholesky factor of their covariance.

    covariance [m, m] and residual [m, O] are of the parts that are orthogonal to everything chosen earlier; ``channel``
    [m] is where each is from, and ``room`` [C] how many more rows each channel may give.
    """
    room = room.clone()
    norm, residual = covariance.diagonal().clone(), residual.clone()
    factor = covariance.new_zeros(len(norm), width)
    picked: list[int] = []
    for k in range(width):
        gain = torch.where(norm > floor, residual.square().sum(1) / norm, -1.0)
        best = int(gain.argmax())
        if gain[best] < 0:
            break
        column = (covariance[:, best] - factor[:, :k] @ factor[best, :k]) / norm[best].sqrt()
        residual = residual - torch.outer(column, residual[best] / norm[best].sqrt())
        norm = norm - column.square()
        norm[best] = 0.0
        room[channel[best]] -= 1
        norm[room[channel] < 1] = 0.0
        factor[:, k] = column
        picked.append(best)
    return picked, factor[picked, : len(picked)].tril()
