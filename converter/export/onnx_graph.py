"""What the steps of quantisation read and change in an ONNX graph: weights by name, links, and inner tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from torch import Tensor

from aslconvert.converter.export.int8 import feeds, open_session

Array = npt.NDArray[Any]

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that multiply, and that are quantised for it."""

POSITIONS = 1 << 18
FEWEST, MOST = 16, 256


class OnnxGraph:
    """The file ``data`` (at most 2 GB), opened to be read and changed."""

    def __init__(self, data: bytes) -> None:
        self.model: onnx.ModelProto = onnx.load_from_string(data)
        graph = self.model.graph
        self.nodes = list(graph.node)
        self.outputs = {output.name for output in graph.output}
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.consumers[name].append(node)
        self._initialisers = {item.name: item for item in graph.initializer}

    def to_bytes(self) -> bytes:
        """The file; the same graph gives the same bytes."""
        data: bytes = self.model.SerializeToString(deterministic=True)
        return data

    def linear(self) -> list[onnx.NodeProto]:
        """Nodes that multiply by a weight, in the order of the graph; those of a quantised file too."""
        return [node for node in self.nodes if node.op_type in LINEAR and self.weight_of(node) is not None]

    def weight_of(self, node: onnx.NodeProto) -> str | None:
        """The initialiser of the node's weight, behind its dequantisation where there is one."""
        return self.stored(node.input[1])

    def stored(self, name: str) -> str | None:
        """The initialiser that ``name`` is, or is dequantised from; None where it is computed."""
        if name in self._initialisers:
            return name
        node = self.producer.get(name)
        if node is not None and node.op_type == "DequantizeLinear" and node.input[0] in self._initialisers:
            return str(node.input[0])
        return None

    def read(self, name: str) -> Array:
        """A copy of an initialiser."""
        return np.array(numpy_helper.to_array(self._initialisers[name]))

    def write(self, name: str, value: Array) -> None:
        """Replace an initialiser."""
        self._initialisers[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), name))

    def is_shared(self, name: str) -> bool:
        """Whether more than one node reads the tensor."""
        return len(self.consumers[name]) > 1


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node."""
    return next((onnx.helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def stored_bytes(data: bytes) -> int:
    """Bytes of everything that the ONNX file ``data`` stores: weights, biases and scales."""
    return sum(numpy_helper.to_array(item).nbytes for item in onnx.load_from_string(data).graph.initializer)


def fixed_sizes(data: bytes, shapes: Sequence[Sequence[int]]) -> bytes:
    """The ONNX file ``data`` for inputs of ``shapes`` alone, in the order of its inputs."""
    model = onnx.load_from_string(data)
    for given, shape in zip(model.graph.input, shapes, strict=False):
        for dim, size in zip(given.type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size
    # Inner sizes follow from these, and would contradict them by their names.
    del model.graph.value_info[:]
    for result in model.graph.output:
        result.type.tensor_type.ClearField("shape")
    return bytes(model.SerializeToString(deterministic=True))


def enough(batches: Sequence[tuple[Any, ...]]) -> int:
    """How many samples of ``batches`` (flat inputs) tell a mean: as many as make ``POSITIONS``, within bounds."""
    sizes = [value.shape[2:].numel() for value in batches[0] if isinstance(value, Tensor)]
    return min(max(POSITIONS // max(sizes, default=1), FEWEST), MOST)


def watch(
    model: onnx.ModelProto, names: Sequence[str], batches: Sequence[tuple[Any, ...]]
) -> Iterator[Mapping[str, Array]]:
    """The inner tensors ``names`` on as many of ``batches`` (flat inputs) as are enough."""
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    graph = open_model.graph
    del graph.output[:]
    # Only what leads there is run.
    needed, nodes = set(names), []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = open_session(open_model.SerializeToString())
    for given in feeds(session, batches, samples=enough(batches)):
        yield dict(zip(names, session.run(list(names), given), strict=True))
