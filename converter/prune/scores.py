"""How much the network's outputs would change without a channel, measured on data.

Leaving out channel c takes x_c from every layer that reads it. To first order the outputs change by J x_c, and for
random signs v over the output elements the mean of (v . J x_c)^2 is ||J x_c||^2: one backward pass a sample tells of
all channels at once (Hutchinson's estimator, as the fit's importance has it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from aslconvert.converter.prune.gate import Lost, channel_axis
from aslconvert.converter.prune.layers import ShiftedConv
from aslconvert.converter.prune.rehydrate import Rehydrated


class OutputScores:
    """Per layer that mixes channels, [N, C_in]: each sample's v . J x_c for what it reads."""

    def __init__(self, rehydrated: Rehydrated, batches: Sequence[tuple[Any, ...]], *, seed: int) -> None:
        self._table: dict[nn.Module, Tensor] = {}
        generator = torch.Generator().manual_seed(seed)
        found: dict[nn.Module, list[Tensor]] = {}
        for batch in batches:
            for layer, value in _products(rehydrated, pytree.arg_tree_leaves(*batch), generator).items():
                found.setdefault(layer, []).append(value)
        self._table = {layer: torch.cat(values) for layer, values in found.items()}

    def of(self, readers: Sequence[tuple[nn.Module, Sequence[int], Sequence[int]]], channels: int) -> Tensor | None:
        """[channels], in proportion to ||J x_c||, or None where no gradient tells of the group.

        readers: (layer, its input channels, the group's channel that each belongs to).
        """
        sums: dict[int, Tensor] = {}
        for layer, places, roots in readers:
            table = self._table.get(layer)
            if table is not None:
                # What one sample is may differ between layers (windows of tokens): only like is added to like.
                total = sums.setdefault(len(table), torch.zeros(len(table), channels, dtype=torch.float64))
                total.index_add_(1, torch.tensor(roots), table[:, torch.tensor(places)])
        return torch.stack([total.square().sum(0) for total in sums.values()]).sum(0).sqrt() if sums else None

    def drop(self, lost: Lost) -> None:
        """Forget the input channels that were pruned: those after them move up."""
        for layer, channels in lost.items():
            table = self._table.get(layer)
            if table is not None:
                gone = set(channels)
                self._table[layer] = table[:, [c for c in range(table.shape[1]) if c not in gone]]


def mixes(layer: nn.Module) -> bool:
    """Whether the layer reads each channel with weights of its own, instead of passing it on."""
    kinds = (nn.modules.conv._ConvNd, nn.Linear, ShiftedConv)
    return isinstance(layer, kinds) and getattr(layer, "groups", 1) == 1


def _products(rehydrated: Rehydrated, inputs: list[Any], generator: torch.Generator) -> dict[nn.Module, Tensor]:
    read: list[tuple[nn.Module, Tensor]] = []

    def note(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor] | None:
        if not args[0].requires_grad:
            return None
        # A copy of its own: a later operation may write in place.
        copy = args[0].clone()
        read.append((layer, copy))
        return (copy,)

    handles = [layer.register_forward_pre_hook(note) for layer in rehydrated.layers if mixes(layer)]
    try:
        with torch.enable_grad():
            outputs = rehydrated.module(*(x.clone() if isinstance(x, Tensor) else x for x in inputs))
            probe = sum(
                (out * _signs(out, generator) / out.detach().square().mean().sqrt().clamp_min(1e-12)).sum()
                for out in outputs
                if isinstance(out, Tensor) and out.is_floating_point() and out.requires_grad
            )
            if not isinstance(probe, Tensor) or not read:
                return {}
            gradients = torch.autograd.grad(probe, [x for _, x in read], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[nn.Module, Tensor] = {}
    for (layer, x), gradient in zip(read, gradients, strict=True):
        if gradient is not None:
            product = (x.detach() * gradient).double().movedim(channel_axis(layer), 1)
            product = product.flatten(2).sum(2) if product.dim() > 2 else product
            found[layer] = found[layer] + product if layer in found else product
    return found


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)
