"""An `.onnx` file as a new message: fields are copied one by one, and what is not known is not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from aslconvert.workers.intake.files import Rebuilt, opened, replacing
from aslconvert.workers.intake.limits import DEFAULT, Limits
from aslconvert.workers.intake.onnx_messages import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
)
from aslconvert.workers.intake.onnx_scan import scan
from aslconvert.workers.intake.refusal import Refused, shown
from aslconvert.workers.intake.tensors import extent

OLDEST, NEWEST = 13, 20
"""Opsets that the converter reads."""
DOMAINS = ("", "ai.onnx")
ITEM_BYTES: dict[int, int] = {
    TensorProto.FLOAT: 4, TensorProto.DOUBLE: 8, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2, TensorProto.INT64: 8,
    TensorProto.INT32: 4, TensorProto.INT16: 2, TensorProto.INT8: 1, TensorProto.UINT8: 1, TensorProto.BOOL: 1,
}  # fmt: skip
_TYPED: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
}
_ATTRIBUTES: dict[int, str] = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s",
    AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints", AttributeProto.STRINGS: "strings",
}  # fmt: skip
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def rebuild_onnx(source: Path, target: Path, *, limits: Limits = DEFAULT) -> Rebuilt:
    """Write the model in ``source`` anew to ``target``; names of values are kept, notes and metadata left out.

    The same file gives the same bytes. Sizes are checked in the file, and again by the converter.

    Raises:
        Refused: ``onnx_damaged``, ``onnx_opset``, ``onnx_domain``, ``onnx_function``, ``onnx_external_data``,
            ``onnx_too_large``, ``operator_not_allowed``, ``operator_too_large``, ``tensor_type``,
            ``tensor_too_large``, ``name_invalid`` or ``name_duplicate``.
        OSError: ``target`` cannot be written.
    """
    with opened(source, most=min(limits.onnx_bytes, limits.file_bytes)) as file:
        content = file.read()
    scan(content, most=limits.onnx_parts)
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise Refused("onnx_damaged", "It is cut short or no message of protobuf.") from error
    del content
    fresh = _Builder(limits).model(model)
    operators = Counter(node.op_type for node in fresh.graph.node)
    with replacing(target) as out:
        out.write(fresh.SerializeToString(deterministic=True))
    return Rebuilt("onnx", target, target.stat().st_size, len(fresh.graph.initializer), operators)


@cache
def allowed() -> frozenset[str]:
    """The operators in onnx_operators.txt: those that the converter reads."""
    lines = Path(__file__).with_name("onnx_operators.txt").read_text("utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


class _Builder:
    """Copies part after part; ``_bytes`` are what is left for tensors."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = limits.weight_bytes

    def model(self, old: ModelProto) -> ModelProto:
        if not old.HasField("graph") or not old.graph.output:
            raise Refused("onnx_damaged", "It holds no graph with an output.")
        if old.functions or old.training_info or old.graph.sparse_initializer:
            raise Refused("onnx_function", "It has functions, training data or sparse tensors of its own.")
        new = ModelProto(ir_version=self._ir_version(old), producer_name="aslconvert")
        versions = [entry.version for entry in old.opset_import if entry.domain in DOMAINS]
        if len(versions) != 1 or not OLDEST <= versions[0] <= NEWEST:
            raise Refused("onnx_opset", f"opset {', '.join(map(str, versions[:4])) or 'none'}.", entry="opset_import")
        new.opset_import.add(domain="", version=versions[0])
        self._graph(old.graph, new.graph)
        return new

    def _ir_version(self, old: ModelProto) -> int:
        if not 3 <= old.ir_version <= 20:
            raise Refused("onnx_damaged", f"It is of format {old.ir_version}.", entry="ir_version")
        return int(old.ir_version)

    def _graph(self, old: GraphProto, new: GraphProto) -> None:
        limits = self._limits
        for parts, most in (
            (old.node, limits.graph_nodes),
            (old.initializer, limits.tensors),
            (old.input, limits.tensors),
        ):
            if len(parts) > most:
                raise Refused("onnx_too_large", f"{len(parts)} parts of a kind, {most} are the most.", entry="graph")
        new.name = "graph"
        defined: set[str] = set()
        for index, tensor in enumerate(old.initializer):
            where = f"graph.initializer[{index}]"
            self._define(tensor.name, defined, where)
            self._tensor(tensor, new.initializer.add(), where)
        initial = frozenset(defined)
        listed: set[str] = set()
        for index, value in enumerate(old.input):
            where = f"graph.input[{index}]"
            # Older exporters list initialisers among the inputs.
            self._define(value.name, listed if value.name in initial else defined, where)
            self._value(value, new.input.add(), where)
        for index, node in enumerate(old.node):
            self._node(node, new.node.add(), defined, f"graph.node[{index}]")
        for index, value in enumerate(old.output):
            where = f"graph.output[{index}]"
            if value.name not in defined:
                raise Refused("name_undefined", "nothing gives it.", entry=where)
            self._value(value, new.output.add(), where)

    def _define(self, name: str, defined: set[str], where: str) -> None:
        self._name(name, where)
        if not name or name in defined:
            raise Refused("name_duplicate", f"{shown(name)} is no name of its own.", entry=where)
        defined.add(name)

    def _name(self, name: str, where: str) -> str:
        # Exporters use slashes, colons and dots; nothing of it becomes code, the converter names values itself.
        if len(name) > self._limits.name_chars or not (name.isascii() and name.isprintable()):
            raise Refused("name_invalid", f"{shown(name)} is no short name in ASCII.", entry=where)
        return name

    def _node(self, old: NodeProto, new: NodeProto, defined: set[str], where: str) -> None:
        if old.domain not in DOMAINS:
            raise Refused("onnx_domain", f"The domain {shown(old.domain)} is not taken.", entry=where)
        if old.op_type not in allowed():
            raise Refused("operator_not_allowed", f"{shown(old.op_type)} is not on the list.", entry=where)
        new.op_type, new.name = old.op_type, self._name(old.name, where)
        for name in old.input:
            if name and name not in defined:
                raise Refused("name_undefined", f"{shown(name)} is defined nowhere before.", entry=where)
            new.input.append(name)
        for attribute in old.attribute:
            self._attribute(attribute, new.attribute.add(), where)
        for name in old.output:
            if name:
                self._define(name, defined, where)
            new.output.append(name)
        if len({attribute.name for attribute in new.attribute}) != len(new.attribute):
            raise Refused("name_duplicate", "Two attributes have the same name.", entry=where)

    def _attribute(self, old: AttributeProto, new: AttributeProto, where: str) -> None:
        where = f"{where}.{self._name(old.name, where)}"
        if old.type in _SUBGRAPHS:
            raise Refused("onnx_function", "A graph within the graph.", entry=where)
        new.name, new.type = old.name, old.type
        if old.ref_attr_name:
            raise Refused("onnx_function", "An attribute of a function.", entry=where)
        if old.type == AttributeProto.TENSOR:
            self._tensor(old.t, new.t, where)
        elif old.type not in _ATTRIBUTES:
            raise Refused("field_unknown", f"An attribute of kind {old.type}.", entry=where)
        elif old.type == AttributeProto.STRING:
            new.s = self._text(old.s, where)
        elif old.type == AttributeProto.STRINGS:
            new.strings.extend(self._text(text, where) for text in old.strings)
        elif old.type in (AttributeProto.FLOAT, AttributeProto.INT):
            setattr(new, _ATTRIBUTES[old.type], getattr(old, _ATTRIBUTES[old.type]))
        else:
            getattr(new, _ATTRIBUTES[old.type]).extend(getattr(old, _ATTRIBUTES[old.type]))

    def _text(self, text: bytes, where: str) -> bytes:
        if len(text) > self._limits.text_chars or not text.isascii() or not text.decode("ascii").isprintable():
            raise Refused("field_invalid", f"{shown(text)} is no short text in ASCII.", entry=where)
        return text

    def _tensor(self, old: TensorProto, new: TensorProto, where: str) -> None:
        if old.data_location == TensorProto.EXTERNAL or old.external_data:
            raise Refused("onnx_external_data", "Its elements lie in another file.", entry=where)
        if old.data_type not in ITEM_BYTES:
            raise Refused("tensor_type", f"The element type {old.data_type} is not taken.", entry=where)
        shape = list(old.dims)
        if any(size < 0 for size in shape) or old.HasField("segment") or old.string_data or old.uint64_data:
            raise Refused("onnx_damaged", "Its shape or data are none.", entry=where)
        if len(shape) > self._limits.rank or extent(shape) > self._limits.tensor_elements:
            raise Refused("tensor_too_large", "It has too many axes or elements.", entry=where)
        count = 0 if 0 in shape else extent(shape)
        self._bytes -= count * ITEM_BYTES[old.data_type]
        if self._bytes < 0:
            raise Refused("tensor_too_large", f"Over {self._limits.weight_bytes} bytes of tensors.", entry=where)
        new.name, new.data_type = self._name(old.name, where), old.data_type
        new.dims.extend(shape)
        typed = _TYPED.get(old.data_type, "int32_data")
        if old.HasField("raw_data"):
            self._fits(len(old.raw_data), count * ITEM_BYTES[old.data_type], where)
            new.raw_data = old.raw_data
        else:
            self._fits(len(getattr(old, typed)), count, where)
            getattr(new, typed).extend(getattr(old, typed))

    def _fits(self, found: int, wanted: int, where: str) -> None:
        if found != wanted:
            raise Refused("onnx_damaged", f"It holds {found}, its shape takes {wanted}.", entry=where)

    def _value(self, old: ValueInfoProto, new: ValueInfoProto, where: str) -> None:
        new.name = self._name(old.name, where)
        kind: Any = old.type.WhichOneof("value")
        if kind is None:
            return
        if kind != "tensor_type" or old.type.tensor_type.elem_type not in ITEM_BYTES:
            raise Refused("tensor_type", "Only dense tensors of plain types are taken.", entry=where)
        tensor = new.type.tensor_type
        tensor.elem_type = old.type.tensor_type.elem_type
        if old.type.tensor_type.HasField("shape"):
            tensor.shape.SetInParent()
            self._shape(old.type.tensor_type.shape.dim, tensor.shape, where)

    def _shape(self, dims: Iterable[Any], shape: Any, where: str) -> None:
        for old in dims:
            new = shape.dim.add()
            if old.WhichOneof("value") == "dim_value":
                new.dim_value = old.dim_value
            elif old.dim_param:
                new.dim_param = self._name(old.dim_param, where)
        numbers = [dim.dim_value for dim in shape.dim if dim.WhichOneof("value") == "dim_value"]
        if len(shape.dim) > self._limits.rank or extent(numbers) > self._limits.tensor_elements:
            raise Refused("tensor_too_large", "It has too many axes or elements.", entry=where)
