"""One call of a graph as one expression of readable PyTorch."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from aslconvert.converter.errors import InternalError
from aslconvert.converter.ir.graph import aten

Render = Callable[[Any], str]

INFIX: dict[Any, str] = {
    aten.add.Tensor: "+",
    aten.sub.Tensor: "-",
    aten.mul.Tensor: "*",
    aten.div.Tensor: "/",
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.truediv: "/",
    operator.mod: "%",
    operator.pow: "**",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.and_: "&",
    operator.or_: "|",
}

FUNCTIONAL = {
    aten.relu.default: ("F.relu", ""),
    aten.relu_.default: ("F.relu", "inplace=True"),
    aten.relu6.default: ("F.relu6", ""),
    aten.relu6_.default: ("F.relu6", "inplace=True"),
    aten.silu.default: ("F.silu", ""),
    aten.silu_.default: ("F.silu", "inplace=True"),
    aten.hardswish.default: ("F.hardswish", ""),
    aten.hardswish_.default: ("F.hardswish", "inplace=True"),
    aten.hardsigmoid.default: ("F.hardsigmoid", ""),
    aten.hardsigmoid_.default: ("F.hardsigmoid", "inplace=True"),
    aten.mish.default: ("F.mish", ""),
    aten.leaky_relu.default: ("F.leaky_relu", ""),
    aten.gelu.default: ("F.gelu", ""),
    aten.elu.default: ("F.elu", ""),
    aten.hardtanh.default: ("F.hardtanh", ""),
    aten.max_pool1d.default: ("F.max_pool1d", ""),
    aten.max_pool2d.default: ("F.max_pool2d", ""),
    aten.max_pool3d.default: ("F.max_pool3d", ""),
    aten.avg_pool2d.default: ("F.avg_pool2d", ""),
    aten.adaptive_avg_pool2d.default: ("F.adaptive_avg_pool2d", ""),
    aten.conv1d.default: ("F.conv1d", ""),
    aten.conv2d.default: ("F.conv2d", ""),
    aten.conv3d.default: ("F.conv3d", ""),
    aten.conv1d.padding: ("F.conv1d", ""),
    aten.conv2d.padding: ("F.conv2d", ""),
    aten.conv3d.padding: ("F.conv3d", ""),
    aten.conv_transpose1d.default: ("F.conv_transpose1d", ""),
    aten.conv_transpose2d.input: ("F.conv_transpose2d", ""),
    aten.conv_transpose3d.input: ("F.conv_transpose3d", ""),
    aten.linear.default: ("F.linear", ""),
    aten.pad.default: ("F.pad", ""),
    aten.cat.default: ("torch.cat", ""),
    aten.stack.default: ("torch.stack", ""),
    aten.flatten.using_ints: ("torch.flatten", ""),
    aten.sigmoid.default: ("torch.sigmoid", ""),
    aten.tanh.default: ("torch.tanh", ""),
    aten.softmax.int: ("torch.softmax", ""),
    aten.mean.dim: ("torch.mean", ""),
    aten.matmul.default: ("torch.matmul", ""),
    aten.exp.default: ("torch.exp", ""),
    aten.sqrt.default: ("torch.sqrt", ""),
}
"""Those whose Python function takes the schema's arguments in the schema's order; all others are called as operators,
which is plain PyTorch too."""

DROPPED = {aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten.sym_constrain_range_for_size.default}
"""Checks that torch.export leaves behind: they compute nothing."""


def expression(node: fx.Node, render: Render) -> str:
    """The call of ``node``, its arguments written by ``render``. Raises InternalError("no_code")."""
    target: Any = node.target
    if target in INFIX and len(node.args) == 2 and not node.kwargs:
        left, right = (render(argument) for argument in node.args)
        return f"{left} {INFIX[target]} {right}"
    if target is operator.getitem:
        return f"{render(node.args[0])}[{render(node.args[1])}]"
    if target is operator.neg:
        return f"-{render(node.args[0])}"
    if target is aten.sym_size.int:
        return f"{render(node.args[0])}.shape[{render(node.args[1])}]"
    if target is torch.ops.asl.active_shift.default:
        return f"active_shift({', '.join(render(argument) for argument in node.args)})"
    if target in FUNCTIONAL:
        name, more = FUNCTIONAL[target]
        return f"{name}({', '.join(filter(None, (_arguments(node, render), more)))})"
    if isinstance(target, torch._ops.OpOverload) and target.namespace in ("aten", "prims"):
        return f"torch.ops.{target}({_arguments(node, render)})"
    module, name = getattr(target, "__module__", ""), getattr(target, "__name__", "")
    if module in ("torch", "torch.fx.experimental.sym_node") and hasattr(torch, name):
        return f"torch.{name}({_arguments(node, render)})"
    if module == "math" and hasattr(math, name):
        return f"math.{name}({_arguments(node, render)})"
    raise InternalError("no_code", f"'{node.name}' calls {target}, which has no form in plain PyTorch.")


def _arguments(node: fx.Node, render: Render) -> str:
    given = [render(argument) for argument in node.args]
    return ", ".join([*given, *(f"{key}={render(value)}" for key, value in node.kwargs.items())])


def literal(value: Any) -> str:
    """A constant argument as Python. Raises InternalError("no_code")."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or isinstance(value, (bool, int, float, complex)):
        return repr(value)
    if isinstance(value, str):
        # Names and modes only: what a foreign file says must not become code.
        return repr(value)
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return str(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    raise InternalError("no_code", f"A constant of type {type(value).__name__} has no form in plain PyTorch.")
