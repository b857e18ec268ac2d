"""active_shift becomes a depthwise convolution: standard operators only.

Pattern: ``active_shift(x, shift, source, stride, delta)``. Algebra: multilinear sampling at a fixed shift is a stencil
of two taps an axis, so each row is a depthwise kernel of at most 2^D non-zero taps; ``source`` selects channels before
it. Rows that are only mixed within their own channel (a 1x1 convolution in C groups) add up to one depthwise kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.errors import InternalError
from aslconvert.converter.ir.graph import CONV_BY_AXES, arguments, aten, attribute
from aslconvert.converter.passes.arrange_sources import arrange_sources
from aslconvert.converter.passes.parameters import drop_unused, put_buffer, put_parameter, read_targets, stored
from aslconvert.converter.passes.sum_shifts import channel_mixer
from aslconvert.converter.passes.verify import verify


def lower(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` in plain ATen; fold batch norms first, so that selections of channels can be absorbed.

    Each shift becomes a depthwise convolution ``<name>.taps`` [K, 1, *kernel]. The selection of source channels is
    arranged away (``arrange_sources``) or becomes an ``index_select``, whichever costs less.
    """
    gm = arrange_sources(gm)
    before = read_targets(gm)
    baked: dict[tuple[object, ...], _Depthwise] = {}
    for node in list(gm.graph.nodes):
        if node.target is torch.ops.asl.active_shift.default:
            mixer = channel_mixer(gm, node)
            if mixer is not None:
                _combine(gm, node, mixer)
            else:
                _lower(gm, node, baked)
        elif node.target is torch.ops.asl.shift_pointwise.default:
            raise InternalError("bad_graph", f"'{node.name}' is already fused; lower the graph before fusing it.")
    gm.graph.eliminate_dead_code()
    drop_unused(gm, before)
    gm.recompile()
    return verify(gm)


@dataclass(frozen=True)
class _Depthwise:
    target: str
    padding: list[int]
    dilation: list[int]
    groups: int
    index: str | None
    identity: bool


def _combine(gm: fx.GraphModule, node: fx.Node, mixer: fx.Node) -> None:
    """The rows of every channel, weighted and added, as one depthwise kernel over the window that they span."""
    call, mix = arguments(node), arguments(mixer)
    weight = attribute(gm, mix["weight"].target).detach().double().flatten(1)
    channels, outputs = call["x"].meta["shape"][1], weight.shape[0]
    shift = attribute(gm, call["shift"].target).detach().double()
    kernel, padding, dilation = depthwise_taps(shift, call["delta"])
    rows = kernel.view(channels, -1, *kernel.shape[2:])
    combined = torch.einsum("com,cm...->co...", weight.view(channels, outputs // channels, -1), rows)
    target = f"{str(mix['weight'].target).removesuffix('.weight')}.taps"
    put_parameter(gm, target, combined.reshape(outputs, 1, *kernel.shape[2:]).to(node.meta["dtype"]))
    with gm.graph.inserting_before(mixer):
        arguments_ = (call["x"], gm.graph.get_attr(target), mix["bias"], call["stride"], padding, dilation, channels)
        lowered = gm.graph.call_function(CONV_BY_AXES[shift.shape[1]], arguments_)
    lowered.meta = dict(mixer.meta)
    mixer.replace_all_uses_with(lowered)
    gm.graph.erase_node(mixer)
    gm.graph.erase_node(node)


def _lower(gm: fx.GraphModule, node: fx.Node, baked: dict[tuple[object, ...], _Depthwise]) -> None:
    call = arguments(node)
    source = call["source"]
    stride, delta = list(call["stride"]), list(call["delta"])
    channels = call["x"].meta["shape"][1]
    key = (call["shift"].target, None if source is None else source.target, *stride, *delta, channels)
    if key not in baked:
        baked[key] = _bake(gm, node, channels)
    depthwise, graph = baked[key], gm.graph
    with graph.inserting_before(node):
        rows = call["x"]
        if depthwise.index is not None:
            rows = graph.call_function(aten.index_select.default, (rows, 1, graph.get_attr(depthwise.index)))
            rows.meta = {**node.meta, "shape": (node.meta["shape"][0], len(attribute(gm, depthwise.index)))}
            rows.meta["shape"] += tuple(call["x"].meta["shape"][2:])
        if not depthwise.identity:
            taps = graph.get_attr(depthwise.target)
            arguments_ = (rows, taps, None, stride, depthwise.padding, depthwise.dilation, depthwise.groups)
            rows = graph.call_function(CONV_BY_AXES[len(stride)], arguments_)
            rows.meta = dict(node.meta)
    node.replace_all_uses_with(rows)
    graph.erase_node(node)


def _bake(gm: fx.GraphModule, node: fx.Node, channels: int) -> _Depthwise:
    call = arguments(node)
    if not stored(call["shift"]):
        raise InternalError("bad_graph", f"The shift of '{node.name}' is computed in the graph: it cannot be lowered.")
    shift = attribute(gm, call["shift"].target).detach().double()
    source = None if call["source"] is None else attribute(gm, call["source"].target)
    rows = shift.shape[0]
    direct = source is None or torch.equal(source, torch.arange(channels, device=source.device))
    prefix, _, name = str(call["shift"].target).rpartition(".")
    unit = all(step == 1 for step in call["stride"]) and all(d == -1 for d in call["delta"])
    still = unit and rows == channels and not bool(shift.any())
    kernel, padding, dilation = depthwise_taps(shift, call["delta"])
    target, index = f"{prefix}.{name.replace('shift', 'taps')}", None
    if not still:
        put_parameter(gm, target, kernel.to(node.meta["dtype"]))
    if not direct and source is not None:
        index = f"{prefix}.source"
        put_buffer(gm, index, source)
    return _Depthwise(target, padding, dilation, channels if direct else rows, index, still)


def depthwise_taps(shift: Tensor, delta: Sequence[int]) -> tuple[Tensor, list[int], list[int]]:
    """The depthwise kernel of multilinear shifts: (kernel [K, 1, *kernel], padding, dilation), for ``shift`` [K, D].

    Padding is the same on both sides, as convolutions have it, and gives ``(size + delta) // stride + 1`` outputs.
    """
    axes = range(shift.shape[1])
    positions, weights = zip(*(_axis(shift[:, axis]) for axis in axes), strict=True)
    layouts = [_layout(positions[axis], weights[axis], delta[axis]) for axis in axes]
    kernel = shift.new_zeros(shift.shape[0], *(layout.size for layout in layouts))
    row = torch.arange(shift.shape[0], device=shift.device)
    for corner in itertools.product(range(2), repeat=shift.shape[1]):
        value = torch.ones_like(shift[:, 0])
        at = [row]
        for axis, side in zip(axes, corner, strict=True):
            value = value * weights[axis][:, side]
            at.append(layouts[axis].index(positions[axis][:, side]))
        kernel.index_put_(tuple(at), value, accumulate=True)
    return kernel[:, None], [layout.padding for layout in layouts], [layout.step for layout in layouts]


@dataclass(frozen=True)
class _Layout:
    low: int
    size: int
    step: int

    @property
    def padding(self) -> int:
        return -self.low

    def index(self, position: Tensor) -> Tensor:
        # Taps of weight zero may lie off the grid; they add nothing wherever they land.
        return ((position - self.low) // self.step).clamp(0, self.size - 1)


def _axis(shift: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.floor(shift)
    fraction = shift - low
    position = low.long()[:, None] + torch.arange(2, device=shift.device)
    return position, torch.stack([1 - fraction, fraction], dim=1)


def _layout(position: Tensor, weight: Tensor, delta: int) -> _Layout:
    used = sorted(set(position[weight != 0].tolist()))
    low, high = used[0], used[-1]
    # Equal padding on both sides means that the first and the last tap add up to this.
    balance = -(delta + 1)
    step = math.gcd(*(value - low for value in used)) or 1
    if step == 1 or low + high != balance or low > 0:
        step = 1
        low = min(low, balance - high, 0)
        high = balance - low
    return _Layout(low, (high - low) // step + 1, step)
