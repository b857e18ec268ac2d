"""no_grad and autocast blocks become part of the graph around them.

Pattern: ``wrap_with_set_grad_enabled(flag, block, *inputs)`` and
``wrap_with_autocast(device, dtype, enabled, cache, block, *inputs)``. A no_grad block computes the same outside. What
autocast did to types is written out as casts, and tried on shapes alone: a block whose types would come out otherwise
stays, as do branches and loops.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from aslconvert.converter.ir.graph import CONVOLUTIONS, add_note, aten, attribute, copy_graph
from aslconvert.converter.passes.verify import verify

CAST_DOWN = frozenset(
    {
        *CONVOLUTIONS,
        aten.linear.default,
        aten.matmul.default,
        aten.mm.default,
        aten.bmm.default,
        aten.addmm.default,
        aten.addbmm.default,
        aten.baddbmm.default,
        aten.scaled_dot_product_attention.default,
    }
)
"""Operators that autocast runs in its low precision, on every device."""

_CONVERSIONS = ("to", "_to_copy", "type_as", "_assert_tensor_metadata")


def inline_blocks(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy of ``gm`` in which every no_grad block, and every autocast block that can be, is inlined."""
    gm = copy_graph(gm)
    opened = _open(gm, ("no_grad", "autocast"))
    if not any(opened.values()):
        return gm
    for kind, count in opened.items():
        if count:
            add_note(gm, f"{count} {kind} block{'s were' if count > 1 else ' was'} written into the graph around it.")
    gm.graph.eliminate_dead_code()
    _drop_unread_blocks(gm)
    gm.recompile()
    return verify(gm)


def _open(gm: fx.GraphModule, kinds: tuple[str, ...]) -> dict[str, int]:
    """Inline the blocks of these kinds, those inside them too; how many of each."""
    opened = dict.fromkeys(kinds, 0)
    stuck: set[fx.Node] = set()
    while True:
        node = next((n for n in gm.graph.nodes if _block_kind(n) in kinds and n not in stuck), None)
        if node is None:
            return opened
        kind = _block_kind(node)
        if _inline(gm, node, kind):
            opened[kind] += 1
        else:
            stuck.add(node)


def _drop_unread_blocks(gm: fx.GraphModule) -> None:
    read = {node.target for node in gm.graph.nodes if node.op == "get_attr"}
    for name, child in list(gm.named_children()):
        if isinstance(child, fx.GraphModule) and name not in read:
            delattr(gm, name)


def _block_kind(node: fx.Node) -> str:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
        return ""
    names = {"wrap_with_set_grad_enabled": "no_grad", "wrap_with_autocast": "autocast"}
    return names.get(str(node.target), "")


def _inline(gm: fx.GraphModule, node: fx.Node, kind: str) -> bool:
    first = 1 if kind == "no_grad" else 4
    reference, inputs = node.args[first], list(node.args[first + 1 :])
    if not isinstance(reference, fx.Node) or any(user.target is not operator.getitem for user in node.users):
        return False
    block = attribute(gm, reference.target)
    if not isinstance(block, fx.GraphModule):
        return False
    if kind == "autocast":
        device, low, enabled = node.args[:3]
        if enabled:
            # Not the autocast blocks in it: those have types of their own, and their turn comes after this one.
            block = copy_graph(block)
            _open(block, ("no_grad",))
            if not _write_casts(block, low or torch.get_autocast_dtype(str(device))):  # type: ignore[arg-type]
                return False
    _splice(gm, node, block, inputs)
    return True


def _splice(gm: fx.GraphModule, node: fx.Node, block: fx.GraphModule, inputs: list[Any]) -> None:
    known: dict[fx.Node, Any] = {}
    given = iter(inputs)
    results: Any = ()
    with gm.graph.inserting_before(node):
        for inner in block.graph.nodes:
            if inner.op == "placeholder":
                known[inner] = next(given)
            elif inner.op == "output":
                results = fx.node.map_arg(inner.args[0], lambda used: known[used])
            elif inner.op == "get_attr":
                known[inner] = gm.graph.get_attr(_carry(gm, block, inner))
                known[inner].meta = dict(inner.meta)
            else:
                known[inner] = gm.graph.node_copy(inner, lambda used: known[used])
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])
        gm.graph.erase_node(user)
    gm.graph.erase_node(node)


def _carry(gm: fx.GraphModule, block: fx.GraphModule, inner: fx.Node) -> str:
    """Bring what the block holds itself (nested blocks, constants) into ``gm``; the name it has there."""
    value = attribute(block, inner.target)
    name, count = str(inner.target).replace(".", "_"), 2
    while hasattr(gm, name):
        name, count = f"{str(inner.target).replace('.', '_')}_{count}", count + 1
    if isinstance(value, torch.nn.Parameter):
        gm.register_parameter(name, value)
    elif isinstance(value, Tensor):
        gm.register_buffer(name, value)
    else:
        setattr(gm, name, value)
    return name


def _write_casts(block: fx.GraphModule, low: torch.dtype) -> bool:
    """Write autocast's casts into the block's graph; False when the block's types cannot be reached so."""
    for node in list(block.graph.nodes):
        if node.op != "call_function":
            continue
        if isinstance(node.target, torch._ops.HigherOrderOperator) and _block_kind(node) != "autocast":
            return False
        wanted = _cast_for(node, low)
        if wanted is not None:
            _cast_inputs(block.graph, node, wanted)
    block.recompile()
    return _types_agree(block)


def _cast_for(node: fx.Node, low: torch.dtype) -> torch.dtype | None:
    if node.target in CAST_DOWN:
        return low
    if getattr(node.target, "_opname", "") in _CONVERSIONS:
        return None
    types = (used.meta.get("dtype") for used in node.all_input_nodes)
    floats = {dtype for dtype in types if dtype is not None and dtype.is_floating_point}
    # All went in low and float32 came out: an operator that autocast runs in full precision.
    return torch.float32 if floats == {low} and node.meta.get("dtype") == torch.float32 else None


def _cast_inputs(graph: fx.Graph, node: fx.Node, wanted: torch.dtype) -> None:
    for used in node.all_input_nodes:
        # Like autocast itself: double precision and integers stay as they are.
        if used.meta.get("dtype") in {torch.float32, torch.float16, torch.bfloat16} - {wanted}:
            with graph.inserting_before(node):
                cast = graph.call_function(aten.to.dtype, (used, wanted))
            cast.meta = {key: used.meta[key] for key in ("shape", "nn_module_stack") if key in used.meta}
            cast.meta["dtype"] = wanted
            node.replace_input_with(used, cast)


def _types_agree(block: fx.GraphModule) -> bool:
    """Whether the block, run on empty tensors of the recorded shapes, gives every node the recorded type."""
    inputs = []
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for node in block.graph.nodes:
            if node.op != "placeholder":
                continue
            shape, dtype = node.meta.get("shape"), node.meta.get("dtype")
            if shape is None or dtype is None:
                return False
            inputs.append(mode.from_tensor(torch.empty(shape, dtype=dtype)))
        checker = _Types(block)
        try:
            checker.run(*inputs)
        except (RuntimeError, TypeError, NotImplementedError):
            return False
    return checker.agree


class _Types(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.agree = True

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op == "call_function" and value.dtype != n.meta.get("dtype", value.dtype):
            self.agree = False
        return value
