"""Reads an ONNX file into plain data, trusting none of its sizes, paths or types."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto
from torch import Tensor

from aslconvert.converter.errors import InfrastructureError, ModelRefused
from aslconvert.converter.importers.onnx.refusals import bad_graph, too_large, unsupported_attribute, unsupported_type
from aslconvert.converter.importers.onnx.values import Constant

OLDEST, NEWEST = 13, 20
"""Opsets whose operators are known."""

MAX_NODES = 100_000
MAX_ELEMENTS = 1 << 29
"""Of one tensor: 2 GiB in float32, far above any layer of a CNN."""
MAX_FILE = 1 << 31
"""Bytes of the .onnx file itself: more than 2 GiB no protobuf message can have."""
MAX_EXTERNAL = 1 << 32
"""Bytes that all tensors in external files have together: 2^30 parameters in float32."""

STANDARD_DOMAINS = ("", "ai.onnx")

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}

ATTRIBUTES: dict[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.FLOAT: lambda a: float(a.f),
    AttributeProto.INT: lambda a: int(a.i),
    AttributeProto.STRING: lambda a: a.s.decode("utf-8", "replace"),
    AttributeProto.FLOATS: lambda a: [float(value) for value in a.floats],
    AttributeProto.INTS: lambda a: [int(value) for value in a.ints],
    AttributeProto.STRINGS: lambda a: [value.decode("utf-8", "replace") for value in a.strings],
}


@dataclass(frozen=True)
class Node:
    """One operator call; ``where`` names it in messages."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    @property
    def where(self) -> str:
        title = self.op if self.domain in STANDARD_DOMAINS else f"{self.domain}.{self.op}"
        return f"node '{self.name or (self.outputs[0] if self.outputs else '')}' ({title})"


@dataclass(frozen=True)
class Input:
    """A graph input: a fixed size is an int, a symbolic one its name, and one left open is None."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Graph:
    """A file's content: ``constants`` are its initialisers by name."""

    opset: int
    nodes: tuple[Node, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Tensor] = field(repr=False)


def read_graph(path: Path) -> Graph:
    """The graph in the file at ``path``.

    Raises:
        ModelRefused: ``not_found``, ``truncated``, ``not_a_model``, ``unsupported_opset``, ``unsupported_type``,
            ``unsupported_attribute``, ``unsupported_function``, ``external_data``, ``too_large`` or ``bad_graph``.
        InfrastructureError: the file cannot be read.
    """
    model = _parse(path)
    opset = _opset(model, path)
    if model.functions:
        raise ModelRefused(
            "unsupported_function",
            f"'{path}' defines functions of its own ({model.functions[0].name}).",
            hint="Inline them with onnx.inliner.inline_local_functions.",
        )
    graph = model.graph
    if len(graph.node) > MAX_NODES:
        raise too_large(f"'{path}'", f"it has {len(graph.node)} nodes, {MAX_NODES} are the most.")
    if graph.sparse_initializer:
        raise unsupported_type(f"'{path}'", "a sparse initialiser")
    _check_external(graph, path)
    constants: dict[str, Tensor] = {}
    for proto in graph.initializer:
        if not proto.name or proto.name in constants:
            raise bad_graph(f"'{path}'", f"the initialiser '{proto.name}' has no name of its own.")
        constants[proto.name] = read_tensor(proto, path.parent)
    return Graph(
        opset=opset,
        nodes=tuple(_node(proto, path.parent) for proto in graph.node),
        inputs=tuple(_input(proto) for proto in graph.input if proto.name not in constants),
        outputs=tuple(proto.name for proto in graph.output),
        constants=constants,
    )


def _parse(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise ModelRefused("not_found", f"There is no file '{path}'.", hint="Give an .onnx file.")
    if not path.is_file():
        raise ModelRefused("not_a_model", f"'{path}' is no regular file.", hint="Give an .onnx file.")
    try:
        if path.stat().st_size > MAX_FILE:
            raise too_large(f"'{path}'", f"it has {path.stat().st_size} bytes, {MAX_FILE} are the most.")
        content = path.read_bytes()
    except OSError as error:
        raise InfrastructureError("unreadable", f"'{path}' cannot be read: {error.strerror}.") from error
    if not content:
        raise ModelRefused("truncated", f"'{path}' is empty.", hint="Copy or export the file again.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ModelRefused(
            "truncated", f"'{path}' is cut short, damaged or no ONNX file.", hint="Copy or export the file again."
        ) from error
    if not model.opset_import or not model.HasField("graph") or not model.graph.output:
        raise ModelRefused("not_a_model", f"'{path}' holds no ONNX graph with an output.", hint="Export it again.")
    return model


def _check_external(graph: onnx.GraphProto, path: Path) -> None:
    """Bound what external files are asked for before any is read: each tensor may name the same sparse file again."""
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    sizes = [
        extent(tensor.dims) * DTYPES[tensor.data_type].itemsize
        for tensor in tensors
        if tensor.data_location == TensorProto.EXTERNAL and tensor.data_type in DTYPES
    ]
    if sum(sizes) > MAX_EXTERNAL:
        raise too_large(f"'{path}'", f"its external tensors take {sum(sizes)} bytes, {MAX_EXTERNAL} are the most.")


def _opset(model: onnx.ModelProto, path: Path) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    if len(versions) == 1 and OLDEST <= versions[0] <= NEWEST:
        return int(versions[0])
    told = ", ".join(map(str, versions)) or "none"
    raise ModelRefused(
        "unsupported_opset",
        f"'{path}' is of opset {told}; {OLDEST} to {NEWEST} are read.",
        hint="Export it again with opset_version=18, or convert it with onnx.version_converter.",
    )


def _node(proto: onnx.NodeProto, folder: Path) -> Node:
    node = Node(proto.name, proto.op_type, proto.domain, tuple(proto.input), tuple(proto.output), {})
    for attribute in proto.attribute:
        if attribute.type == AttributeProto.TENSOR:
            tensor = read_tensor(attribute.t, folder, where=node.where)
            node.attributes[attribute.name] = Constant.of(attribute.name, tensor)
        elif attribute.type in ATTRIBUTES and not attribute.ref_attr_name:
            node.attributes[attribute.name] = ATTRIBUTES[attribute.type](attribute)
        elif attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            # Control flow: the registry refuses the operator by its name.
            node.attributes[attribute.name] = None
        else:
            raise unsupported_attribute(node.where, f"the kind of the attribute '{attribute.name}'")
    return node


def _input(proto: onnx.ValueInfoProto) -> Input:
    where = f"input '{proto.name}'"
    if proto.type.WhichOneof("value") != "tensor_type" or not proto.type.tensor_type.HasField("shape"):
        raise unsupported_type(where, "an input that is no tensor of a known rank")
    tensor = proto.type.tensor_type
    if tensor.elem_type not in DTYPES:
        raise unsupported_type(where, f"element type {_type_name(tensor.elem_type)}")
    shape: list[int | str | None] = []
    for dim in tensor.shape.dim:
        if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0:
            shape.append(int(dim.dim_value))
        else:
            shape.append(dim.dim_param or None)
    if extent([size for size in shape if isinstance(size, int)]) > MAX_ELEMENTS:
        raise too_large(where, f"it has the shape {shape}.")
    return Input(proto.name, DTYPES[tensor.elem_type], tuple(shape))


def extent(shape: Sequence[int]) -> int:
    """The elements of a shape, counting a size of zero as one: strides beyond 64 bits are an error even where empty."""
    return math.prod(max(size, 1) for size in shape)


def read_tensor(proto: TensorProto, folder: Path, *, where: str = "") -> Tensor:
    """The tensor in ``proto``; external data is read from ``folder``. Raises ModelRefused."""
    where = where or f"initialiser '{proto.name}'"
    if proto.data_type not in DTYPES:
        raise unsupported_type(where, f"element type {_type_name(proto.data_type)}")
    shape = tuple(int(size) for size in proto.dims)
    count = math.prod(shape)
    if any(size < 0 for size in shape) or proto.HasField("segment"):
        raise bad_graph(where, f"its shape is {shape}.")
    if extent(shape) > MAX_ELEMENTS:
        raise too_large(where, f"its shape is {shape}.")
    dtype = DTYPES[proto.data_type]
    size = count * dtype.itemsize
    if proto.data_location == TensorProto.EXTERNAL:
        raw = _external(proto, folder, size, where)
    elif proto.HasField("raw_data"):
        raw = proto.raw_data
    else:
        return _typed(proto, shape, dtype, where)
    if len(raw) != size:
        raise bad_graph(where, f"it holds {len(raw)} bytes, its shape {shape} takes {size}.")
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if count else torch.zeros(shape, dtype=dtype)


def _typed(proto: TensorProto, shape: tuple[int, ...], dtype: torch.dtype, where: str) -> Tensor:
    fields = {torch.float32: proto.float_data, torch.float64: proto.double_data, torch.int64: proto.int64_data}
    data = fields.get(dtype, proto.int32_data)
    if len(data) != math.prod(shape):
        raise bad_graph(where, f"it holds {len(data)} elements, its shape is {shape}.")
    if dtype in (torch.float16, torch.bfloat16):
        bits = torch.from_numpy(np.array(data, dtype=np.int64).astype(np.uint16).view(np.int16))
        return bits.view(dtype).reshape(shape)
    wide = dtype if dtype.is_floating_point else torch.int64
    return torch.tensor(list(data), dtype=wide).to(dtype).reshape(shape)


def _external(proto: TensorProto, folder: Path, size: int, where: str) -> bytes:
    """External data lies in a file beside the model; a path that leads anywhere else is refused."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError as error:
        raise _refused_external(where, "its offset or length is no number") from error
    pure = Path(location)
    if not location or pure.is_absolute() or ".." in pure.parts or "\\" in location or "\0" in location:
        raise _refused_external(where, f"it lies at '{location}', outside the model's folder")
    try:
        path = (folder / location).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise _refused_external(where, f"'{location}' leads outside the model's folder")
        if not path.is_file():
            raise _refused_external(where, f"there is no file '{location}' beside the model")
        if offset < 0 or length != size or offset + length > path.stat().st_size:
            raise _refused_external(where, f"'{location}' holds no {size} bytes for it at {offset}")
        with path.open("rb") as file:
            file.seek(offset)
            content: bytes = file.read(length)
    # Names too long, links in a circle, files that nobody may read.
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise _refused_external(where, f"'{location}' cannot be read: {why}") from error
    return content


def _refused_external(where: str, what: str) -> ModelRefused:
    return ModelRefused("external_data", f"{where}: {what}.", hint="Keep the data file beside the .onnx file.")


def _type_name(number: int) -> str:
    names: Iterator[str] = (name for name, value in TensorProto.DataType.items() if value == number)
    return next(names, str(number)).lower()
