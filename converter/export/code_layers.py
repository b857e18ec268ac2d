"""Which calls of a graph are layers that torch has modules for, by the names of their tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from aslconvert.converter.ir.graph import arguments, aten, attribute

CONVOLUTIONS: dict[Any, str] = {
    aten.conv1d.default: "Conv1d",
    aten.conv2d.default: "Conv2d",
    aten.conv3d.default: "Conv3d",
    aten.conv1d.padding: "Conv1d",
    aten.conv2d.padding: "Conv2d",
    aten.conv3d.padding: "Conv3d",
    aten.conv_transpose1d.default: "ConvTranspose1d",
    aten.conv_transpose2d.input: "ConvTranspose2d",
    aten.conv_transpose3d.input: "ConvTranspose3d",
}
SHIFT = torch.ops.asl.active_shift.default


@dataclass
class Layer:
    """A module at ``path``, made by ``code``; ``calls`` end in its output, ``inside`` are swallowed by them."""

    path: str
    code: str
    calls: dict[fx.Node, fx.Node] = field(default_factory=dict)
    inside: list[fx.Node] = field(default_factory=list)

    def reads(self, call: fx.Node) -> fx.Node:
        """What the module is called with."""
        return self.calls[call]


def layers_of(gm: fx.GraphModule, tensors: dict[str, Tensor]) -> dict[str, Layer]:
    """The layers of ``gm`` by path; ``tensors`` are all that the model holds, by name."""
    found: dict[str, Layer] = {}
    refused: set[str] = set()
    held: dict[str, set[str]] = {}
    for name in tensors:
        prefix, _, last = name.rpartition(".")
        held.setdefault(prefix, set()).add(last)
        # A module of torch's has no parts of its own beneath it.
        for depth in range(prefix.count(".") + 1):
            refused.add(".".join(prefix.split(".")[:depth]))
    for node in gm.graph.nodes:
        made = _layer(gm, node)
        if made is None:
            continue
        path, code, names, start, inside = made
        known = found.get(path)
        if not path or path in refused or held.get(path) != names or (known is not None and known.code != code):
            # Called in two ways, or with more tensors than the layer knows: written as functions instead.
            refused.add(path)
            found.pop(path, None)
            continue
        layer = found.setdefault(path, Layer(path, code))
        layer.calls[node] = start
        layer.inside += inside
    return found


Found = tuple[str, str, set[str], fx.Node, list[fx.Node]]


def _layer(gm: fx.GraphModule, node: fx.Node) -> Found | None:
    if node.op != "call_function":
        return None
    if node.target in CONVOLUTIONS:
        return _shifted(gm, node) or _convolution(gm, node)
    if node.target is aten.linear.default:
        return _linear(gm, node)
    return _batch_norm(gm, node) if node.target is aten.batch_norm.default else None


def _stored(call: dict[str, Any], **names: str) -> tuple[str, set[str]] | None:
    """(path, the last names) when every given tensor is stored as ``path.<its name>``; None means absent."""
    paths, lasts = set(), set()
    for argument, wanted in names.items():
        node = call[argument]
        if node is None:
            continue
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        path, _, last = str(node.target).rpartition(".")
        if last != wanted:
            return None
        paths.add(path)
        lasts.add(last)
    return (paths.pop(), lasts) if len(paths) == 1 else None


def _shifted(gm: fx.GraphModule, conv: fx.Node) -> Found | None:
    shift = conv.args[0]
    if not isinstance(shift, fx.Node) or shift.target is not SHIFT or len(shift.users) != 1:
        return None
    call, mix = arguments(shift), arguments(conv)
    if mix.get("padding") == "same" or not _is_pointwise(gm, mix):
        return None
    stored = _stored({**call, **mix}, shift="shift", source="source", weight="weight", bias="bias")
    if stored is None or call["source"] is None:
        return None
    path, names = stored
    weight, offsets = attribute(gm, mix["weight"].target), attribute(gm, call["shift"].target)
    if offsets.shape[1] != weight.dim() - 2:
        return None
    words = [f"{offsets.shape[0]}, {weight.shape[0]}, stride={list(call['stride'])}, delta={list(call['delta'])}"]
    words += [f"groups={mix['groups']}"] if mix["groups"] != 1 else []
    words += ["bias=False"] if mix["bias"] is None else []
    words += _dtype(weight)
    words += [f"shift_dtype={offsets.dtype}"] if offsets.dtype != torch.float32 else []
    return path, f"ShiftConv({', '.join(words)})", names, call["x"], [shift]


def _is_pointwise(gm: fx.GraphModule, mix: dict[str, Any]) -> bool:
    weight = mix["weight"]
    if "output_padding" in mix or not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return False
    plain = all(set(_list(mix[name])) == {value} for name, value in (("stride", 1), ("padding", 0)))
    kernel = tuple(attribute(gm, weight.target).shape[2:])
    return plain and len(kernel) > 0 and set(kernel) == {1}


def _convolution(gm: fx.GraphModule, conv: fx.Node) -> Found | None:
    call = arguments(conv)
    stored = _stored(call, weight="weight", bias="bias")
    if stored is None or not isinstance(call["input"], fx.Node):
        return None
    weight, kind = attribute(gm, call["weight"].target), CONVOLUTIONS[conv.target]
    outer, inner, *kernel = weight.shape
    groups = call["groups"]
    channels = (outer, inner * groups) if "Transpose" in kind else (inner * groups, outer)
    words = [f"{channels[0]}, {channels[1]}, {_short(kernel)}"]
    for name, default in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1)):
        value = call.get(name, default)
        if not isinstance(value, str) and any(not isinstance(size, int) for size in _list(value)):
            return None
        if isinstance(value, str) or set(_list(value)) != {default}:
            words.append(f"{name}={_short(value)}")
    words += [f"groups={groups}"] if groups != 1 else []
    words += ["bias=False"] if call["bias"] is None else []
    path, names = stored
    return path, f"nn.{kind}({', '.join(words + _dtype(weight))})", names, call["input"], []


def _linear(gm: fx.GraphModule, node: fx.Node) -> Found | None:
    call = arguments(node)
    stored = _stored(call, weight="weight", bias="bias")
    if stored is None or not isinstance(call["input"], fx.Node):
        return None
    weight = attribute(gm, call["weight"].target)
    words = [f"{weight.shape[1]}, {weight.shape[0]}", *(["bias=False"] if call["bias"] is None else [])]
    path, names = stored
    return path, f"nn.Linear({', '.join(words + _dtype(weight))})", names, call["input"], []


def _batch_norm(gm: fx.GraphModule, node: fx.Node) -> Found | None:
    call = arguments(node)
    stored = _stored(call, weight="weight", bias="bias", running_mean="running_mean", running_var="running_var")
    rank = len(node.meta.get("shape", ()))
    if stored is None or call["training"] or rank not in (2, 3, 4, 5) or not isinstance(call["input"], fx.Node):
        return None
    path, names = stored
    if not {"running_mean", "running_var"} <= names or ("weight" in names) != ("bias" in names):
        return None
    mean = attribute(gm, call["running_mean"].target)
    words = [f"{mean.shape[0]}", f"eps={call['eps']}", f"momentum={call['momentum']}"]
    words += ["affine=False"] if "weight" not in names else []
    code = f"nn.BatchNorm{max(rank - 2, 1)}d({', '.join(words + _dtype(mean))})"
    return path, code, names | {"num_batches_tracked"}, call["input"], []


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _short(value: Any) -> str:
    """3 for [3, 3]: as people write it."""
    if isinstance(value, str):
        return repr(value)
    sizes = _list(value)
    return repr(sizes[0]) if len(set(sizes)) == 1 else repr(tuple(sizes))


def _dtype(tensor: Tensor) -> list[str]:
    return [f"dtype={tensor.dtype}"] if tensor.dtype != torch.float32 else []
