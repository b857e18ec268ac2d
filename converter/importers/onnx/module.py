"""An ONNX graph as a module: constants are folded when it is built, the rest runs as torch operations."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from aslconvert.converter.errors import AslconvertError
from aslconvert.converter.importers.onnx.call import Call, Store
from aslconvert.converter.importers.onnx.file import MAX_ELEMENTS, Graph, Node
from aslconvert.converter.importers.onnx.names import Names
from aslconvert.converter.importers.onnx.refusals import bad_graph, too_large
from aslconvert.converter.importers.onnx.registry import Result, RuleFunction, rule_of
from aslconvert.converter.importers.onnx.values import Constant, Host, Value

BUFFERS = ("running_mean", "running_var")

MODEST = frozenset(
    (
        *("Add", "Cast", "Concat", "Constant", "Div", "Equal", "Gather", "Mul", "Neg", "Reshape", "Shape"),
        *("Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"),
    )
)
"""Operators whose output has no more elements than the product of their operands' elements."""

PASSING = ("Cast", "CastLike", "Dropout", "Identity")
"""Operators that may do nothing whatever the sizes are."""

MAX_FOLDED = 1 << 28
"""Elements that all folded constants may have together: 1 GiB in float32."""

CERTAIN = 1 << 20
"""Up to this size of its output a modest operator is folded without a look at shapes first."""


class TooLargeError(Exception):
    """A tensor of more than MAX_ELEMENTS; the message is its shape."""


class Bounded(TorchDispatchMode):
    """Stops at the first tensor of more than MAX_ELEMENTS that an operation makes, if only on the way to its result.

    Entered inside a FakeTensorMode, so that nothing has been allocated yet. Views take no memory and pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(value.alias_info for value in func._schema.returns):
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, Tensor) and tensor.numel() > MAX_ELEMENTS:
                    raise TooLargeError(tuple(tensor.shape))
        return result


@dataclass(frozen=True)
class Step:
    """A node that is left after folding, and its rule."""

    node: Node
    rule: RuleFunction


class OnnxModule(nn.Module):
    """Runs the steps of a graph. Parameters carry the file's names; inputs are positional, in the file's order."""

    def __init__(self, graph: Graph, steps: Sequence[Step], constants: dict[str, Constant]) -> None:
        super().__init__()
        self._graph = graph
        self._steps = tuple(steps)
        self._constants = constants
        self._paths: dict[str, str] = {}
        self._idle: frozenset[str] = frozenset()

    def forward(self, *inputs: Tensor) -> Any:
        """The graph's outputs: a tensor, or a tuple of them where there are several."""
        return self.run(inputs, self._stored)

    def run(self, inputs: Sequence[Tensor], store: Store, *, idle: set[str] | None = None) -> Any:
        """`forward` with constants from ``store``; outputs that are just the first operand are noted in ``idle``."""
        graph = self._graph
        values: dict[str, Value] = dict(self._constants)
        values.update(zip((entry.name for entry in graph.inputs), inputs, strict=True))
        for step in self._steps:
            operands = [values[name] if name else None for name in step.node.inputs]
            if step.node.outputs[0] in self._idle:
                values[step.node.outputs[0]] = values[step.node.inputs[0]]
                continue
            results = evaluate(step.node, step.rule, Call(step.node, graph.opset, operands, store))
            if idle is not None and step.node.op in PASSING and results[0] is operands[0]:
                idle.add(step.node.outputs[0])
            values.update(zip(step.node.outputs, results, strict=False))
        answer = Node("output", "Identity", "", graph.outputs, (), {})
        outputs = Call(answer, graph.opset, [values[name] for name in graph.outputs], store)
        tensors = tuple(outputs.tensor(index) for index in range(len(graph.outputs)))
        return tensors[0] if len(tensors) == 1 else tensors

    def settle(self, example: Sequence[Tensor]) -> None:
        """Run once on shapes alone, and register each constant that is used under its name.

        Raises ModelRefused for whatever does not run.
        """
        used: dict[str, tuple[Constant, str, Node]] = {}

        def note(constant: Constant, role: str, node: Node) -> Tensor:
            used.setdefault(constant.name, (constant, role, node))
            return constant.value

        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode, Bounded(), torch.no_grad():
            idle: set[str] = set()
            self.run([mode.from_tensor(tensor) for tensor in example], note, idle=idle)
        self._idle = frozenset(idle)
        names = Names()
        for constant, role, node in used.values():
            path = names.path(constant.name, role, node)
            self._paths[constant.name] = path
            self._register(path, constant.value, role)

    def _register(self, path: str, value: Tensor, role: str) -> None:
        *parents, leaf = path.split(".")
        owner: nn.Module = self
        for part in parents:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        if value.is_floating_point() and role not in BUFFERS:
            owner.register_parameter(leaf, nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value)

    def _stored(self, constant: Constant, role: str, node: Node) -> Tensor:
        owner, _, leaf = self._paths[constant.name].rpartition(".")
        stored: Tensor = getattr(self.get_submodule(owner), leaf)
        return stored


def build(graph: Graph) -> OnnxModule:
    """The module of ``graph``, whose constants are folded. Raises ModelRefused."""
    constants = {name: Constant.of(name, value) for name, value in graph.constants.items()}
    known = set(constants) | {entry.name for entry in graph.inputs}
    steps, folded = [], 0
    for node in graph.nodes:
        rule = rule_of(node, graph.opset)
        if not any(node.outputs):
            raise bad_graph(node.where, "it has no output.")
        for name in node.inputs:
            if name and name not in known:
                raise bad_graph(node.where, f"its operand '{name}' comes from nowhere.")
        if len(known) + len(set(filter(None, node.outputs))) != len(known | set(filter(None, node.outputs))):
            raise bad_graph(node.where, "it writes a tensor that exists already.")
        known.update(filter(None, node.outputs))
        if all(not name or name in constants for name in node.inputs):
            results = _fold(node, rule.function, graph.opset, constants, MAX_FOLDED - folded)
            folded += sum(value.value.numel() for value in results.values() if node.op != "Identity")
            if folded > MAX_FOLDED:
                raise too_large(node.where, "the graph's constants grow beyond all bounds.")
            constants.update(results)
        else:
            steps.append(Step(node, rule.function))
    for name in graph.outputs:
        if name not in known:
            raise bad_graph(f"output '{name}'", "no node computes it.")
    # A signature of its own, so that the exported program's inputs carry the file's names.
    return _with_signature(graph)(graph, steps, constants)


def evaluate(node: Node, rule: RuleFunction, call: Call, *, most: int = MAX_ELEMENTS) -> list[Value]:
    """The outputs of one node, of at most ``most`` elements each. Raises ModelRefused that names the node."""
    try:
        result: Result = rule(call)
    except AslconvertError:
        raise
    except TooLargeError as error:
        raise too_large(node.where, f"on the way it needs a tensor of the shape {error}.") from error
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise bad_graph(node.where, lines[0] if lines else type(error).__name__) from error
    results = result if isinstance(result, list) else [result]
    if len(results) < max((place for place, name in enumerate(node.outputs, start=1) if name), default=0):
        raise bad_graph(node.where, f"it has {len(node.outputs)} outputs instead of {len(results)}.")
    for value in results:
        if isinstance(value, FakeTensor) and value.numel() > most:
            raise too_large(node.where, f"its output has the shape {tuple(value.shape)}.")
    return results


def _fold(node: Node, rule: RuleFunction, opset: int, constants: dict[str, Constant], most: int) -> dict[str, Constant]:
    operands = [constants[name] if name else None for name in node.inputs]
    if node.op == "Identity" and len(node.outputs) == 1 and operands and operands[0] is not None:
        # The same tensor under two names: tied weights stay tied.
        return {node.outputs[0]: operands[0]}
    call = Call(node, opset, operands, lambda constant, role, user: constant.value)
    largest = math.prod(max(operand.value.numel(), 1) for operand in operands if operand is not None)
    if node.op not in MODEST or largest > CERTAIN:
        # First on shapes alone, so that a size beyond all bounds never becomes memory.
        with FakeTensorMode(allow_non_fake_inputs=True), Bounded():
            evaluate(node, rule, call, most=most)
    with torch.no_grad():
        results = evaluate(node, rule, call)
    tensors = [value.tensor() if isinstance(value, Host) else value for value in results]
    return {
        name: Constant.of(name, value.detach().clone() if isinstance(value, Tensor) else value.value)
        for name, value in zip(node.outputs, tensors, strict=False)
        if name
    }


def _with_signature(graph: Graph) -> type[OnnxModule]:
    def forward(self: OnnxModule, *inputs: Tensor) -> Any:
        return OnnxModule.forward(self, *inputs)

    names = ["self", *input_names(graph)]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    forward.__signature__ = signature  # type: ignore[attr-defined]
    return type("OnnxGraph", (OnnxModule,), {"forward": forward})


def input_names(graph: Graph) -> list[str]:
    """The inputs' names as identifiers, in order."""
    names: list[str] = []
    for number, entry in enumerate(graph.inputs):
        name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in entry.name)
        name = name if name.isidentifier() and not iskeyword(name) and name != "self" else f"input_{number}"
        while name in names:
            name += "_"
        names.append(name)
    return names
