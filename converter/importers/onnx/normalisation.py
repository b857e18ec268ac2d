"""Normalisations over the batch, groups, layers, instances and neighbouring channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from aslconvert.converter.importers.onnx.call import Call, axis_of
from aslconvert.converter.importers.onnx.refusals import bad_graph
from aslconvert.converter.importers.onnx.registry import operator

WIDEST = 4096
"""Channels in a window of LRN, each of them one addition in the graph."""


@operator("BatchNormalization", attributes="epsilon momentum training_mode")
def batch_normalization(call: Call) -> Tensor:
    call.require("training_mode", 0)
    call.only_first_output()
    return F.batch_norm(
        call.tensor(0),
        call.tensor(3, "running_mean"),
        call.tensor(4, "running_var"),
        call.tensor(1, "weight"),
        call.tensor(2, "bias"),
        False,
        0.0,
        call.attribute("epsilon", 1e-5),
    )


@operator("InstanceNormalization", attributes="epsilon")
def instance_normalization(call: Call) -> Tensor:
    x, weight, bias = call.tensor(0), call.tensor(1, "weight"), call.tensor(2, "bias")
    # torch's function for instances, and that of `functional` for groups, refuse images of a single pixel.
    return torch.group_norm(x, x.shape[1], weight, bias, call.attribute("epsilon", 1e-5))


@operator("LayerNormalization", attributes="axis epsilon stash_type", since=17)
def layer_normalization(call: Call) -> Tensor:
    call.only_first_output()
    call.require("stash_type", 1)
    x, weight, bias = call.tensor(0), call.tensor(1, "weight"), call.optional(2, "bias")
    axis = axis_of(call, call.attribute("axis", -1), x.dim())
    shape = list(x.shape[axis:])
    epsilon = call.attribute("epsilon", 1e-5)
    if list(weight.shape) == shape and (bias is None or list(bias.shape) == shape):
        return F.layer_norm(x, shape, weight, bias, epsilon)
    y = F.layer_norm(x, shape, None, None, epsilon) * weight
    return y if bias is None else y + bias


@operator("GroupNormalization", attributes="epsilon num_groups", since=18)
def group_normalization(call: Call) -> Tensor:
    """Up to opset 20 there is one scale and one bias a group, not a channel."""
    x, weight, bias = call.tensor(0), call.tensor(1, "weight"), call.tensor(2, "bias")
    groups = call.attribute("num_groups", 0)
    if groups < 1 or x.shape[1] % groups or weight.shape != (groups,) or bias.shape != (groups,):
        raise bad_graph(call.node.where, f"{groups} groups of {x.shape[1]} channels.")
    each = x.shape[1] // groups
    weight, bias = (v.unsqueeze(1).expand(groups, each).reshape(-1) for v in (weight, bias))
    return torch.group_norm(x, groups, weight, bias, call.attribute("epsilon", 1e-5))


@operator("LRN", attributes="alpha beta bias size")
def local_response_normalization(call: Call) -> Tensor:
    x, size = call.tensor(0), call.attribute("size", 0)
    if size < 1:
        raise bad_graph(call.node.where, f"its size is {size}.")
    channels = x.shape[1]
    # Of an even window the standard puts the larger half after, torch's function before. No window sees more than all.
    before, behind = (min(half, channels - 1) for half in ((size - 1) // 2, size - 1 - (size - 1) // 2))
    if before + behind >= WIDEST:
        raise call.unsupported(f"size={size} over {channels} channels")
    squares = F.pad(x.square(), [0, 0] * (x.dim() - 2) + [before, behind])
    total = squares.narrow(1, 0, channels)
    for start in range(1, before + behind + 1):
        total = total + squares.narrow(1, start, channels)
    scale: float = call.attribute("alpha", 1e-4) / size
    offset: float = call.attribute("bias", 1.0)
    power: float = call.attribute("beta", 0.75)
    return x / (offset + scale * total).pow(power)


@operator("LpNormalization", attributes="axis p")
def lp_normalization(call: Call) -> Tensor:
    x = call.tensor(0)
    axis = axis_of(call, call.attribute("axis", -1), x.dim())
    size: Tensor = torch.linalg.vector_norm(x, call.require("p", 2, 1, 2), axis, keepdim=True)
    # A vector of zeros stays one.
    return x / torch.where(size == 0, torch.ones_like(size), size)


@operator("MeanVarianceNormalization", attributes="axes")
def mean_variance_normalization(call: Call) -> Tensor:
    x = call.tensor(0)
    axes = [axis_of(call, axis, x.dim()) for axis in call.attribute("axes", [0, 2, 3])]
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)
