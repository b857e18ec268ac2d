"""torch-pruning's dependency graph over a rehydrated graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from aslconvert.converter.errors import ModelRefused
from aslconvert.converter.prune.gate import Lost
from aslconvert.converter.prune.layers import DepthwiseShift, ShiftedConv
from aslconvert.converter.prune.pruners import DepthwiseShiftPruner, ShiftedConvPruner
from aslconvert.converter.prune.rehydrate import Rehydrated

_OUTPUT = torch_pruning.ops.OPTYPE.OUTPUT
_Convolution = nn.modules.conv._ConvNd


class Dependencies:
    """Which channels of which layers go together. Raises ModelRefused("untraceable") when torch-pruning cannot say."""

    def __init__(self, rehydrated: Rehydrated, inputs: Sequence[Any]) -> None:
        self.rehydrated = rehydrated
        self.inputs = list(inputs)
        self.trace()

    def trace(self) -> None:
        """Read the network (again)."""
        # By type: for single modules torch-pruning's own look-up of types fails.
        pruners = {ShiftedConv: ShiftedConvPruner(), DepthwiseShift: DepthwiseShiftPruner()}
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._graph = torch_pruning.DependencyGraph().build_dependency(
                    self.rehydrated.module,
                    tuple(x.clone() if isinstance(x, Tensor) else x for x in self.inputs),
                    output_transform=_floats,
                    customized_pruners=pruners,
                    verbose=False,
                )
            # It is a tracer over what autograd shows, and fails in as many ways as there are operators.
            except Exception as error:
                raise ModelRefused("untraceable", f"torch-pruning cannot follow the network: {error}") from error

    def roots(self) -> list[nn.Module]:
        """The layers that make channels, in the order of the graph."""
        return [
            layer
            for layer in self.rehydrated.layers
            if isinstance(layer, (_Convolution, nn.Linear, ShiftedConv)) and getattr(layer, "groups", 1) == 1
        ]

    def name(self, layer: nn.Module) -> str:
        """The layer's path in the original."""
        return self.rehydrated.layers[layer].name

    def outputs(self, layer: nn.Module) -> int:
        """Output channels of a root."""
        return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]

    def channels(self, layer: nn.Module) -> int:
        """Output channels of any layer that torch-pruning prunes."""
        return int(self._graph.get_pruner_of_module(layer).get_out_channels(layer))

    def group(self, root: nn.Module, channels: Iterable[int]) -> Any:
        """All that goes with these output channels of ``root``, or None where torch-pruning does not know the layer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pruner = self._graph.get_pruner_of_module(root)
                group = self._graph.get_pruning_group(root, pruner.prune_out_channels, list(channels))
            # Likewise: index arithmetic on shapes that it did not foresee.
            except Exception:  # noqa: BLE001
                return None
        return group if all(self._fits(item) for item in group) else None

    def _fits(self, item: Any) -> bool:
        layer = item.dep.target.module
        if layer not in self.rehydrated.layers:
            return True
        pruner = self._graph.get_pruner_of_module(layer)
        out = self._graph.is_out_channel_pruning_fn(item.dep.handler)
        size = pruner.get_out_channels(layer) if out else pruner.get_in_channels(layer)
        return size is None or all(0 <= index < size for index in item.idxs)

    def makers(self, group: Any) -> set[nn.Module]:
        """The roots whose output channels are in the group."""
        return {dep.target.module for dep, _ in group if self._graph.is_out_channel_pruning_fn(dep.handler)}

    def protected(self, group: Any) -> str | None:
        """The reason why the group must stay, as far as the graph alone tells."""
        return "feeds_output" if any(dep.target.type == _OUTPUT for dep, _ in group) else None

    def magnitude(self, group: Any, channels: int) -> Tensor:
        """[channels], the root of the summed squares of all weights that make or read each channel."""
        total = torch.zeros(channels, dtype=torch.float64)
        for item in group:
            layer, out = item.dep.target.module, self._graph.is_out_channel_pruning_fn(item.dep.handler)
            if not isinstance(layer, (_Convolution, nn.Linear, ShiftedConv)):
                continue
            roots = [index for index in item.root_idxs if index is not None]
            if len(roots) != len(item.idxs):
                continue
            squares = _squares(layer, out=out)
            total.index_add_(0, torch.tensor(roots), squares[torch.tensor(item.idxs)])
        return total.sqrt()

    def readers(self, group: Any) -> list[tuple[nn.Module, list[int], list[int]]]:
        """(layer, its input channels, the channel of the group's root that each belongs to) of all that read it."""
        found = []
        for item in group:
            roots = [index for index in item.root_idxs if index is not None]
            known = item.dep.target.module in self.rehydrated.layers and len(roots) == len(item.idxs)
            if known and self._graph.is_in_channel_pruning_fn(item.dep.handler):
                found.append((item.dep.target.module, list(item.idxs), roots))
        return found

    def made(self, group: Any) -> Lost:
        """Per layer, the output channels that go with the group."""
        made: Lost = {}
        for dep, idxs in group:
            layer = dep.target.module
            if layer in self.rehydrated.layers and self._graph.is_out_channel_pruning_fn(dep.handler):
                made[layer] = sorted({*made.get(layer, []), *idxs})
        return made

    def lost(self, group: Any) -> Lost:
        """Per layer, the input channels that go with the group."""
        lost: Lost = {}
        for dep, idxs in group:
            layer = dep.target.module
            if layer in self.rehydrated.layers and self._graph.is_in_channel_pruning_fn(dep.handler):
                lost[layer] = sorted({*lost.get(layer, []), *idxs})
        return lost

    def prune(self, group: Any) -> None:
        """Do it, in place."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group.prune(record_history=False)


def _squares(layer: nn.Module, *, out: bool) -> Tensor:
    """Per output (or input) channel, the summed squares of the weights that make (or read) it."""
    weight = layer.get_parameter("weight").detach().double().square().cpu()
    if isinstance(layer, ShiftedConv) and layer.groups == 1:
        if out:
            return weight.flatten(1).sum(1).view(-1, layer.upscale**2).sum(1)
        each = weight.flatten(1).sum(0)
        return torch.zeros(layer.in_channels, dtype=torch.float64).index_add_(0, layer.source.cpu(), each)
    axis = 0 if out or getattr(layer, "groups", 1) > 1 else 1
    if getattr(layer, "transposed", False):
        axis = 1 - axis
    return weight.transpose(0, axis).flatten(1).sum(1)


def _floats(outputs: Any) -> Any:
    return [leaf for leaf in outputs if isinstance(leaf, Tensor) and leaf.requires_grad]
