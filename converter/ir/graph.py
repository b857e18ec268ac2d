"""The unlifted ATen graph of an exported program, and the conv sites in it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.operator_schemas import normalize_function

from aslconvert.converter.ir.site import ConvSite, Geometry, Refusal
from aslconvert.converter.rules import judge

aten = torch.ops.aten

CONVOLUTIONS: dict[Any, str] = {
    aten.conv1d.default: "conv1d",
    aten.conv2d.default: "conv2d",
    aten.conv3d.default: "conv3d",
    aten.conv1d.padding: "conv1d",
    aten.conv2d.padding: "conv2d",
    aten.conv3d.padding: "conv3d",
    aten.conv_transpose1d.default: "conv_transpose1d",
    aten.conv_transpose2d.input: "conv_transpose2d",
    aten.conv_transpose3d.input: "conv_transpose3d",
    aten.convolution.default: "convolution",
}

CONV_BY_AXES = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
"""The convolution that a rewritten site mixes its rows with, by spatial axes."""

NOTES = "aslconvert_notes"


def graph_module(program: ExportedProgram) -> fx.GraphModule:
    """The program's graph with its parameters as attributes; nothing is shared with ``program``.

    The graphs of nested blocks (no_grad, autocast, branches) are treated alike. Inputs that the network writes into
    are copied first: callers keep theirs.

    Every tensor node gets ``meta["shape"]`` (ints, the example's sizes in place of symbols) and ``meta["dtype"]``.
    """
    unlifted = program.module(check_guards=False)
    if not isinstance(unlifted, fx.GraphModule):
        raise TypeError(f"torch gave a {type(unlifted).__name__} instead of a GraphModule")
    _own_inputs(unlifted)
    for module in unlifted.modules():
        if not isinstance(module, fx.GraphModule):
            continue
        for node in module.graph.nodes:
            # A GraphModule whose meta holds symbolic sizes cannot be deep-copied once it was loaded from a file.
            value = node.meta.pop("val", None)
            if isinstance(value, Tensor):
                node.meta["shape"] = tuple(_concrete(size) for size in value.shape)
                node.meta["dtype"] = value.dtype
    return copy_graph(unlifted)


def _own_inputs(gm: fx.GraphModule) -> None:
    for node in list(gm.graph.nodes):
        if node.op == "placeholder" and _is_written(node):
            with gm.graph.inserting_after(node):
                own = gm.graph.call_function(aten.clone.default, (node,))
            own.meta = dict(node.meta)
            node.replace_all_uses_with(own, delete_user_cb=lambda user, own=own: user is not own)
    gm.recompile()


def _is_written(node: fx.Node) -> bool:
    """Whether an operator writes into this value, or into a view of it."""
    for user in node.users:
        if isinstance(user.target, torch._ops.HigherOrderOperator):
            return True
        schema = getattr(user.target, "_schema", None)
        if schema is None:
            continue
        if schema.is_mutable and any(
            argument.alias_info is not None and argument.alias_info.is_write and value is node
            for argument, value in zip(schema.arguments, user.args, strict=False)
        ):
            return True
        if any(returned.alias_info is not None for returned in schema.returns) and _is_written(user):
            return True
    return False


def views_to_reshapes(gm: fx.GraphModule) -> None:
    """A view of a contiguous image need not be one of the same image in channels_last: a reshape always is."""
    for node in gm.graph.nodes:
        if node.target is aten.view.default:
            node.target = aten.reshape.default


def notes_of(gm: fx.GraphModule) -> tuple[str, ...]:
    """Sentences that passes left about what they did to the graph."""
    return tuple(gm.meta.get(NOTES, ()))


def add_note(gm: fx.GraphModule, note: str) -> None:
    """Leave a sentence for the report."""
    gm.meta[NOTES] = (*notes_of(gm), note)


def copy_graph(gm: fx.GraphModule) -> fx.GraphModule:
    """A deep copy: new parameters (tied ones stay tied), a new graph, the same forward signature."""
    with warnings.catch_warnings():
        # torch's own description of inputs warns about itself when it is copied.
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(gm)


def attribute(root: nn.Module, target: Any) -> Any:
    """The parameter, buffer, constant or submodule at a dotted path. Raises AttributeError."""
    value: Any = root
    for part in str(target).split("."):
        value = getattr(value, part)
    return value


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of an ATen call by schema name, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    bound = normalize_function(node.target, node.args, node.kwargs, normalize_to_only_use_kwargs=True)
    given = dict(bound.kwargs) if bound is not None else {}
    return {a.name: given.get(a.name, a.default_value) for a in node.target._schema.arguments}


def find_sites(gm: fx.GraphModule) -> tuple[list[ConvSite], list[Refusal]]:
    """Every convolution of the graph: the sites that can be rewritten and, for each other one, the reason.

    Convolutions inside nested graphs (autocast, no_grad and cond blocks) are found too, and refused.
    """
    sites: list[ConvSite] = []
    refusals: list[Refusal] = []
    names: set[str] = set()
    for node in gm.graph.nodes:
        if node.op != "call_function" or node.target not in CONVOLUTIONS:
            continue
        found = _describe(gm, node, names)
        found = found if isinstance(found, Refusal) else judge(found)
        names.add(found.name)
        if isinstance(found, Refusal):
            refusals.append(found)
        else:
            sites.append(found)
    refusals.extend(_nested(gm, names))
    return sites, refusals


_NESTED = {
    "wrap_with_autocast": ("autocast", "Inside an autocast block that cannot be written without it."),
    "wrap_with_set_grad_enabled": ("nested_submodule", "Inside a block that was not opened (passes/prepare.py does)."),
}


def _nested(gm: fx.GraphModule, taken: set[str]) -> Iterator[Refusal]:
    for path, module in gm.named_modules():
        if module is gm or not isinstance(module, fx.GraphModule):
            continue
        caller = _caller(gm, path)
        code, message = _NESTED.get(
            caller, ("control_flow", f"Inside a branch or loop ({caller}), which may not run for every input.")
        )
        for node in module.graph.nodes:
            if node.op == "call_function" and node.target in CONVOLUTIONS:
                name = _unique(module_path(node) or f"{path}.{node.name}", node, taken)
                taken.add(name)
                yield Refusal(name, f"{path}.{node.name}", code, message)


def _caller(gm: fx.GraphModule, path: str) -> str:
    """The higher-order operator that runs the nested graph at ``path``."""
    holder, _, name = path.rpartition(".")
    parent = gm.get_submodule(holder)
    if isinstance(parent, fx.GraphModule):
        for node in parent.graph.nodes:
            if node.op == "get_attr" and node.target == name and node.users:
                return str(next(iter(node.users)).target)
    return "a nested graph"


def _describe(gm: fx.GraphModule, node: fx.Node, taken: set[str]) -> ConvSite | Refusal:
    call = arguments(node)
    weight_node, bias_node = call["weight"], call["bias"]
    fallback = _unique(module_path(node) or node.name, node, taken)
    if weight_node.op != "get_attr":
        return Refusal(fallback, node.name, "computed_weight", "Its weight is computed from the model's input.")
    weight_target = _canonical(gm, weight_node.target)
    name = _unique(conv_module(node) or weight_target.removesuffix(".weight"), node, taken)
    if bias_node is not None and bias_node.op != "get_attr":
        return Refusal(name, node.name, "computed_bias", "Its bias is computed from the model's input.")
    bias_target = None if bias_node is None else _canonical(gm, bias_node.target)
    weight = attribute(gm, weight_target)
    spatial = weight.dim() - 2
    input_shape, output_shape = call["input"].meta.get("shape"), node.meta.get("shape")
    if input_shape is None or output_shape is None:
        return Refusal(name, node.name, "unknown_shape", "The graph does not say what shape it works on.")
    if len(input_shape) != spatial + 2:
        return Refusal(name, node.name, "unbatched", "Its input has no batch dimension.")
    transposed = bool(call.get("transposed", "transpose" in CONVOLUTIONS[node.target]))
    geometry = _geometry(call, tuple(weight.shape[2:]))
    if geometry is None:
        return Refusal(name, node.name, "dynamic_geometry", "Its stride, padding or dilation depends on the input.")
    output_padding = _expand(call.get("output_padding", 0), spatial) if transposed else ()
    if output_padding is None:
        return Refusal(name, node.name, "dynamic_geometry", "Its output padding depends on the input.")
    groups = int(call["groups"])
    outer, inner = int(weight.shape[0]), int(weight.shape[1])
    return ConvSite(
        name=name,
        node=node.name,
        op=("conv_transpose" if transposed else "conv") + f"{spatial}d",
        weight_target=weight_target,
        bias_target=bias_target,
        in_channels=outer if transposed else inner * groups,
        out_channels=inner * groups if transposed else outer,
        groups=groups,
        transposed=transposed,
        geometry=geometry,
        input_shape=input_shape,
        output_shape=output_shape,
        dtype=weight.dtype,
        key=f"{weight_target}|{bias_target}|{geometry}" + (f"|{output_padding}" if transposed else ""),
        output_padding=output_padding,
    )


def _geometry(call: dict[str, Any], kernel: tuple[int, ...]) -> Geometry | None:
    stride = _expand(call["stride"], len(kernel))
    dilation = _expand(call["dilation"], len(kernel))
    padding = call["padding"]
    if stride is None or dilation is None:
        return None
    if isinstance(padding, str):
        totals = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        # torch pads an odd total by one more after than before.
        before = tuple(total // 2 for total in totals)
        after = tuple(total - total // 2 for total in totals)
    else:
        expanded = _expand(padding, len(kernel))
        if expanded is None:
            return None
        before = after = expanded
    return Geometry(tuple(int(k) for k in kernel), stride, dilation, before, after)


def _expand(value: int | Sequence[Any], length: int) -> tuple[int, ...] | None:
    items = [value] if isinstance(value, int) else list(value)
    if not all(isinstance(item, int) for item in items):
        return None
    return tuple(items) * length if len(items) == 1 else tuple(items)


def _canonical(gm: fx.GraphModule, target: str) -> str:
    """The first name of a tensor that goes by several, so that tied parameters are seen as one."""
    tensor = attribute(gm, target)
    for name, parameter in gm.named_parameters():
        if parameter is tensor:
            return name
    return target


def _unique(name: str, node: fx.Node, taken: set[str]) -> str:
    return name if name not in taken else f"{name}@{node.name}"


def module_path(node: fx.Node) -> str:
    """The path of the innermost module that made the call; empty at the top."""
    return _innermost(node)[0]


def conv_module(node: fx.Node) -> str:
    """The path of the nn.Conv that made the call, empty for a functional call inside some other module."""
    path, kind = _innermost(node)
    parametrized = "torch.nn.utils.parametrize.ParametrizedConv" in kind
    return path if parametrized or "torch.nn.modules.conv." in kind else ""


def _innermost(node: fx.Node) -> tuple[str, str]:
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "", ""
    path, kind = next(reversed(stack.values()))[:2]
    kind = f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)
    return str(path).removeprefix("L['self']").removeprefix("."), kind


def _concrete(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    return int(hint) if hint is not None else int(size)
