"""Whether a group of channels was cut out right: the pruned network against the whole one that ignores the channels.

Shapes that fit prove nothing about which channel stands where. So the network is run twice: once whole, with the
weights that read the channels at zero, once pruned. What every layer then gets must be the same numbers, but for the
channels that are gone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from aslconvert.converter.prune.layers import ShiftedConv

TOLERANCE = 1e-4
"""Relative L2 difference of a layer's input that passes for rounding; a channel in the wrong place makes 1e-1."""

Lost = dict[nn.Module, list[int]]
"""Per layer, the input channels that it loses."""

Given = list[tuple[nn.Module, Tensor]]


class Snapshot:
    """The tensors and settings of a module tree, to return to. Nothing is copied: pruning replaces, never writes."""

    def __init__(self, root: nn.Module) -> None:
        self._state = [(module, _shallow(module.__dict__)) for module in root.modules()]

    def restore(self) -> None:
        """Everything as it was."""
        for module, state in self._state:
            module.__dict__.clear()
            module.__dict__.update(_shallow(state))


def _shallow(state: dict[str, Any]) -> dict[str, Any]:
    stores = ("_parameters", "_buffers", "_modules")
    return {name: copy.copy(value) if name in stores else value for name, value in state.items()}


def observe(module: fx.GraphModule, layers: Sequence[nn.Module], inputs: Sequence[Any]) -> tuple[Given, list[Any]]:
    """(layer, its input) for every call, in order, and the outputs of one run."""
    given: Given = []

    def note(layer: nn.Module, args: tuple[Any, ...]) -> None:
        # A later operation may write in place.
        given.append((layer, args[0].clone()))

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            # Not called itself: torch would print its code whenever an operator refuses a cut.
            outputs = module.forward(*(x.clone() if isinstance(x, Tensor) else x for x in inputs))
    finally:
        for handle in handles:
            handle.remove()
    return given, list(outputs)


def difference(whole: tuple[Given, list[Any]], pruned: tuple[Given, list[Any]], lost: Lost) -> float:
    """The largest relative L2 difference of what the layers got and of the outputs. Infinite where shapes disagree."""
    pairs = [
        (_without(x, layer, lost.get(layer, [])), y) for (layer, x), (_, y) in zip(whole[0], pruned[0], strict=True)
    ]
    pairs += [(x, y) for x, y in zip(whole[1], pruned[1], strict=True) if isinstance(x, Tensor)]
    return max((relative(x, y) for x, y in pairs), default=0.0)


def relative(x: Tensor, y: Tensor) -> float:
    """||x - y|| / ||x||; infinite where the shapes differ."""
    if x.shape != y.shape:
        return float("inf")
    scale, apart = x.double().norm().item(), (x.double() - y.double()).norm().item()
    if not math.isfinite(apart):
        return float("inf")
    return apart / scale if scale > 0 else (0.0 if apart == 0 else float("inf"))


@contextmanager
def ignoring(module: nn.Module, lost: Lost) -> Iterator[None]:
    """Inside, the whole network ignores the channels: no weight reads them, and norms over channels leave them out."""
    snapshot = Snapshot(module)
    try:
        for layer, channels in lost.items():
            _ignore(layer, channels)
        yield
    finally:
        snapshot.restore()


def _ignore(layer: nn.Module, channels: list[int]) -> None:
    if isinstance(layer, (nn.LayerNorm, nn.GroupNorm)):
        layer.__dict__["forward"] = _norm_without(layer, channels)
    elif isinstance(layer, ShiftedConv):
        if layer.groups == 1:
            gone = torch.isin(layer.source, torch.tensor(channels, device=layer.source.device))
            _zero(layer, gone.nonzero().flatten(), 1)
    elif isinstance(layer, nn.modules.conv._ConvNd):
        if layer.groups == 1:
            _zero(layer, torch.tensor(channels), 0 if layer.transposed else 1)
    elif isinstance(layer, nn.Linear):
        _zero(layer, torch.tensor(channels), 1)


def _zero(layer: nn.Module, index: Tensor, axis: int) -> None:
    weight = layer.get_parameter("weight").detach().clone()
    layer.register_parameter("weight", nn.Parameter(weight.index_fill_(axis, index.to(weight.device), 0.0)))


def _norm_without(layer: nn.LayerNorm | nn.GroupNorm, channels: list[int]) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        axis = channel_axis(layer)
        keep = _keep(x.shape[axis], channels).to(x.device)
        part = x.index_select(axis, keep)
        weight, bias = (None if v is None else v[keep] for v in map(layer._parameters.get, ("weight", "bias")))
        if isinstance(layer, nn.LayerNorm):
            part = functional.layer_norm(part, [len(keep)], weight, bias, layer.eps)
        else:
            # Each group by itself, as it was: the pruned layer forms its groups anew.
            group = keep // (x.shape[axis] // layer.num_groups)
            pieces = []
            for each in range(layer.num_groups):
                at = group == each
                scale, offset = (None if v is None else v[at] for v in (weight, bias))
                if at.any():
                    pieces.append(functional.group_norm(part[:, at], 1, scale, offset, layer.eps))
            part = torch.cat(pieces, 1)
        return torch.zeros_like(x).index_copy_(axis if axis >= 0 else x.dim() - 1, keep, part)

    return forward


def channel_axis(layer: nn.Module) -> int:
    """The axis of a layer's input that its channels lie on."""
    return -1 if isinstance(layer, (nn.Linear, nn.LayerNorm)) else 1


def _without(x: Tensor, layer: nn.Module, channels: list[int]) -> Tensor:
    if not channels:
        return x
    axis = channel_axis(layer)
    return x.index_select(axis, _keep(x.shape[axis], channels).to(x.device))


def _keep(size: int, channels: list[int]) -> Tensor:
    gone = set(channels)
    return torch.tensor([index for index in range(size) if index not in gone], dtype=torch.int64)
