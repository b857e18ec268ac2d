"""The layers of a graph as modules: torch's own, and the shifted rows with the 1x1 convolution that mixes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.ir.graph import CONV_BY_AXES, CONVOLUTIONS, arguments, aten, attribute
from aslconvert.converter.passes.parameters import stored


class ShiftedConv(nn.Module):
    """``asl.active_shift`` and the 1x1 convolution of its rows, seen as one layer of C_in to C_out channels.

    With ``upscale`` r (a rewritten transposed convolution) the r * r phases of an output channel lie side by side in
    ``weight`` and are dealt out by a pixel shuffle. ``groups`` is 1, or C_in for a depthwise block.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    shift: nn.Parameter
    source: Tensor

    def __init__(self, channels: int, geometry: tuple[list[int], list[int]], groups: int, upscale: int) -> None:
        super().__init__()
        self.in_channels = channels
        self.stride, self.delta = geometry
        self.groups, self.upscale = groups, upscale

    @property
    def out_channels(self) -> int:
        """C_out, after the pixel shuffle."""
        return int(self.weight.shape[0]) // self.upscale**2

    def forward(self, x: Tensor) -> Tensor:
        """[N, C_in, *spatial] to [N, C_out, *out]."""
        rows = torch.ops.asl.active_shift(x, self.shift, self.source, self.stride, self.delta)
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[self.shift.shape[1] - 1]
        y = convolve(rows, self.weight, self.bias, groups=self.groups)
        return functional.pixel_shuffle(y, self.upscale) if self.upscale > 1 else y


class DepthwiseShift(ShiftedConv):
    """One whose 1x1 convolution has a group for each channel: what goes in at a channel comes out at the same."""


@dataclass
class Layer:
    """``nodes`` of the graph that ``module`` stands for, first to last; ``targets``: its tensors' names in the graph.

    ``source`` is the node that it reads.
    """

    module: nn.Module
    nodes: tuple[fx.Node, ...]
    source: fx.Node
    targets: dict[str, str]

    @property
    def name(self) -> str:
        """The path of the module that the tensors came from."""
        return next(iter(self.targets.values())).rpartition(".")[0] or next(iter(self.targets.values()))


def read_layer(gm: fx.GraphModule, node: fx.Node) -> Layer | None:
    """The layer that starts at ``node`` (its only input is the first argument), or None where none does.

    Grouped convolutions between one group and one a channel are no layer: which channels go together in them is not
    for a single index to say.
    """
    if node.op != "call_function":
        return None
    if node.target is torch.ops.asl.active_shift.default:
        return _shifted(gm, node)
    build = _BUILDERS.get(node.target)
    if build is None:
        return None
    call = arguments(node)
    source = call.get("input", call.get("self"))
    names = {name: value for name in _TENSORS if isinstance(value := call.get(name), fx.Node)}
    if not names or not isinstance(source, fx.Node) or not all(map(stored, names.values())):
        return None
    module = build(gm, node, call)
    if module is None:
        return None
    targets = {name: str(value.target) for name, value in names.items()}
    adopt(gm, module, targets)
    return Layer(module.eval(), (node,), source, targets)


def adopt(gm: fx.GraphModule, module: nn.Module, targets: dict[str, str]) -> None:
    """Give ``module`` the graph's own tensors; floating ones become parameters where the module has parameters."""
    for name, target in targets.items():
        value = attribute(gm, target).detach()
        if name in ("running_mean", "running_var", "source"):
            module.register_buffer(name, value)
        else:
            # A gradient is what torch-pruning follows, also from frozen weights.
            module.register_parameter(name, nn.Parameter(value))
    for flag in ("affine", "elementwise_affine"):
        # torch-pruning asks the norms for it before it looks at their weights.
        if hasattr(module, flag):
            setattr(module, flag, "weight" in targets)


_TENSORS = ("weight", "bias", "running_mean", "running_var")


def _convolution(gm: fx.GraphModule, node: fx.Node, call: dict[str, Any]) -> nn.Module | None:
    weight, groups, kind = attribute(gm, call["weight"].target), int(call["groups"]), CONVOLUTIONS[node.target]
    transposed = "transpose" in kind
    axes = weight.dim() - 2
    inner, outer = weight.shape[1] * (1 if transposed else groups), int(weight.shape[0])
    if transposed:
        inner, outer = outer, inner
    if groups > 1 and (transposed or not groups == inner == outer):
        return None
    table = _TRANSPOSED if transposed else _PLAIN
    more = {"output_padding": tuple(call["output_padding"])} if transposed else {}
    padding = call["padding"]
    with torch.device("meta"):
        module: nn.Module = table[axes - 1](
            inner,
            outer,
            tuple(weight.shape[2:]),
            stride=_axes(call["stride"], axes),
            padding=padding if isinstance(padding, str) else _axes(padding, axes),
            dilation=_axes(call["dilation"], axes),
            groups=groups,
            bias=False,
            **more,
        )
    return module


def _axes(value: Any, axes: int) -> Any:
    values = [value] if isinstance(value, int) else list(value)
    return tuple(values * axes if len(values) == 1 else values)


_PLAIN: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Callable[..., nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS: tuple[Callable[..., nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _linear(gm: fx.GraphModule, node: fx.Node, call: dict[str, Any]) -> nn.Module:
    outer, inner = attribute(gm, call["weight"].target).shape
    with torch.device("meta"):
        return nn.Linear(inner, outer, bias=False)


def _batch_norm(gm: fx.GraphModule, node: fx.Node, call: dict[str, Any]) -> nn.Module | None:
    shape = call["input"].meta.get("shape")
    if call["training"] or call["running_mean"] is None or shape is None:
        return None
    with torch.device("meta"):
        return _NORMS[len(shape) - 2](shape[1], eps=call["eps"], affine=False)


def _layer_norm(gm: fx.GraphModule, node: fx.Node, call: dict[str, Any]) -> nn.Module | None:
    if len(call["normalized_shape"]) != 1:
        return None
    return nn.LayerNorm(call["normalized_shape"], eps=call["eps"], elementwise_affine=False)


def _group_norm(gm: fx.GraphModule, node: fx.Node, call: dict[str, Any]) -> nn.Module | None:
    shape = call["input"].meta.get("shape")
    return None if shape is None else nn.GroupNorm(call["num_groups"], shape[1], eps=call["eps"], affine=False)


def _prelu(gm: fx.GraphModule, node: fx.Node, call: dict[str, Any]) -> nn.Module:
    return nn.PReLU(attribute(gm, call["weight"].target).numel(), device="meta")


_BUILDERS: dict[Any, Callable[[fx.GraphModule, fx.Node, dict[str, Any]], nn.Module | None]] = {
    **dict.fromkeys((op for op in CONVOLUTIONS if op is not aten.convolution.default), _convolution),
    aten.linear.default: _linear,
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.prelu.default: _prelu,
}


def _shifted(gm: fx.GraphModule, node: fx.Node) -> Layer | None:
    call = arguments(node)
    users = list(node.users)
    if len(users) != 1 or users[0].target not in CONV_BY_AXES.values() or users[0].args[0] is not node:
        return None
    mix = arguments(users[0])
    named = {"weight": mix["weight"], "bias": mix["bias"], "shift": call["shift"], "source": call["source"]}
    shape = call["x"].meta.get("shape") if isinstance(call.get("x"), fx.Node) else None
    if shape is None or not all(stored(value) for name, value in named.items() if name != "bias" or value is not None):
        return None
    targets = {name: str(value.target) for name, value in named.items() if value is not None}
    groups, weight, source = int(mix["groups"]), attribute(gm, mix["weight"].target), attribute(gm, targets["source"])
    each = weight.shape[1]
    if groups > 1:
        owner = torch.arange(groups, device=source.device).repeat_interleave(each)
        # Only where a group is a channel: one output, and rows of that channel alone.
        if groups != shape[1] or weight.shape[0] != groups or not torch.equal(owner, source):
            return None
    nodes: tuple[fx.Node, ...] = (node, users[0])
    upscale = 1
    after = list(users[0].users)
    if groups == 1 and len(after) == 1 and after[0].target is aten.pixel_shuffle.default:
        nodes, upscale = (*nodes, after[0]), int(arguments(after[0])["upscale_factor"])
    kind = DepthwiseShift if groups > 1 else ShiftedConv
    module = kind(shape[1], (list(call["stride"]), list(call["delta"])), groups, upscale)
    adopt(gm, module, targets)
    if "bias" not in targets:
        module.register_parameter("bias", None)
    return Layer(module.eval(), nodes, call["x"], targets)
