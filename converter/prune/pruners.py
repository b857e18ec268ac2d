"""How shifted convolutions lose channels: the rows that read a channel go with it, and their weights with the rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch_pruning
from torch import Tensor, nn

from aslconvert.converter.prune.layers import DepthwiseShift, ShiftedConv


class ShiftedConvPruner(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """For blocks that mix all rows; inputs and outputs are pruned independently."""

    TARGET_MODULES = ShiftedConv

    def prune_out_channels(self, layer: ShiftedConv, idxs: Sequence[int]) -> nn.Module:
        """Drop the rows of the 1x1's weight (and its bias) that make these channels, in all phases."""
        phases = torch.arange(layer.upscale**2)
        rows = (_kept(layer.out_channels, idxs)[:, None] * len(phases) + phases).flatten()
        _select(layer, "weight", rows)
        _select(layer, "bias", rows)
        return layer

    def prune_in_channels(self, layer: ShiftedConv, idxs: Sequence[int]) -> nn.Module:
        """Drop the shifted rows that read these channels, and the columns of the 1x1's weight that read the rows.

        Raises ValueError when no row would be left.
        """
        rows = _drop_rows(layer, idxs)
        layer.weight = nn.Parameter(layer.weight.detach().index_select(1, rows))
        return layer

    def get_out_channels(self, layer: ShiftedConv) -> int:
        """C_out."""
        return layer.out_channels

    def get_in_channels(self, layer: ShiftedConv) -> int:
        """C_in."""
        return layer.in_channels


class DepthwiseShiftPruner(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """For depthwise blocks: an input channel is an output channel, so both go at once."""

    TARGET_MODULES = DepthwiseShift

    def prune_out_channels(self, layer: DepthwiseShift, idxs: Sequence[int]) -> nn.Module:
        """Drop the channels with their rows, weights and biases."""
        kept = _kept(layer.in_channels, idxs)
        _drop_rows(layer, idxs)
        _select(layer, "weight", kept)
        _select(layer, "bias", kept)
        layer.groups = len(kept)
        return layer

    # One function under both names is how torch-pruning is told that they depend on each other.
    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: DepthwiseShift) -> int:
        """C."""
        return layer.in_channels

    get_in_channels = get_out_channels


def _kept(channels: int, idxs: Sequence[int]) -> Tensor:
    gone = set(idxs)
    return torch.tensor([index for index in range(channels) if index not in gone], dtype=torch.int64)


def _drop_rows(layer: ShiftedConv, idxs: Sequence[int]) -> Tensor:
    kept = _kept(layer.in_channels, idxs).to(layer.source.device)
    place = torch.full((layer.in_channels,), -1, dtype=torch.int64, device=kept.device)
    place[kept] = torch.arange(len(kept), device=kept.device)
    rows = (place[layer.source] >= 0).nonzero().flatten()
    if len(rows) == 0:
        raise ValueError("no row of the block would be left")
    layer.source = place[layer.source[rows]]
    _select(layer, "shift", rows)
    layer.in_channels = len(kept)
    return rows


def _select(layer: nn.Module, name: str, index: Tensor) -> None:
    value = getattr(layer, name)
    if value is not None:
        layer.register_parameter(name, nn.Parameter(value.detach().index_select(0, index.to(value.device))))
