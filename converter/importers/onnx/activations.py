"""Activations, and the functions of one tensor they are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from aslconvert.converter.importers.onnx.call import Call, axis_of
from aslconvert.converter.importers.onnx.registry import operator

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Log": torch.log,
    "Mish": F.mish,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tanh": torch.tanh,
}
SINCE = {"Mish": 18}
SELU = (1.6732632423543772, 1.0507009873554805)


def _register(name: str, function: Callable[[Tensor], Tensor]) -> None:
    @operator(name, since=SINCE.get(name, 13))
    def rule(call: Call) -> Tensor:
        return function(call.tensor(0))


for _name, _function in PLAIN.items():
    _register(_name, _function)


@operator("LeakyRelu", attributes="alpha")
def leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call.tensor(0), call.attribute("alpha", 0.01))


@operator("Elu", attributes="alpha")
def elu(call: Call) -> Tensor:
    return F.elu(call.tensor(0), call.attribute("alpha", 1.0))


@operator("Celu", attributes="alpha")
def celu(call: Call) -> Tensor:
    return F.celu(call.tensor(0), call.attribute("alpha", 1.0))


@operator("Selu", attributes="alpha gamma")
def selu(call: Call) -> Tensor:
    x = call.tensor(0)
    gain: float = call.attribute("gamma", SELU[1])
    return gain * F.elu(x, call.attribute("alpha", SELU[0]))


@operator("ThresholdedRelu", attributes="alpha")
def thresholded_relu(call: Call) -> Tensor:
    return F.threshold(call.tensor(0), call.attribute("alpha", 1.0), 0.0)


@operator("HardSigmoid", attributes="alpha beta")
def hard_sigmoid(call: Call) -> Tensor:
    x, slope, offset = call.tensor(0), call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if abs(slope - 1 / 6) < 1e-7 and offset == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * slope + offset, 0.0, 1.0)


@operator("HardSwish", since=14)
def hard_swish(call: Call) -> Tensor:
    return F.hardswish(call.tensor(0))


@operator("Gelu", attributes="approximate", since=20)
def gelu(call: Call) -> Tensor:
    return F.gelu(call.tensor(0), approximate=call.require("approximate", "none", "none", "tanh"))


@operator("PRelu")
def prelu(call: Call) -> Tensor:
    x, slope = call.tensor(0), call.tensor(1, "weight")
    return torch.where(x >= 0, x, x * slope)


@operator("Clip")
def clip(call: Call) -> Tensor:
    x = call.tensor(0)
    bounds = [call.term(index) if call.has(index) else None for index in (1, 2)]
    if any(isinstance(bound, Tensor) for bound in bounds):
        low, high = (None if b is None else torch.as_tensor(b, dtype=x.dtype) for b in bounds)
        x = x if low is None else torch.maximum(x, low)
        return x if high is None else torch.minimum(x, high)
    return x if bounds == [None, None] else torch.clamp(x, bounds[0], bounds[1])  # type: ignore[arg-type]


@operator("Softmax", attributes="axis")
def softmax(call: Call) -> Tensor:
    x = call.tensor(0)
    return torch.softmax(x, axis_of(call, call.attribute("axis", -1), x.dim()))


@operator("LogSoftmax", attributes="axis")
def log_softmax(call: Call) -> Tensor:
    x = call.tensor(0)
    return torch.log_softmax(x, axis_of(call, call.attribute("axis", -1), x.dim()))


@operator("Dropout", attributes="ratio seed")
def dropout(call: Call) -> Tensor:
    """Nothing, as in inference."""
    call.only_first_output()
    if call.has(2) and call.number(2):
        raise call.unsupported("training_mode=true")
    return call.tensor(0)
