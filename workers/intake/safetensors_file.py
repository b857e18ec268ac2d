"""A `.safetensors` file as a new one: every tensor is named, typed and within the file, and nothing else is in it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aslconvert.workers.intake.files import Rebuilt, opened, replacing
from aslconvert.workers.intake.jsontext import Cursor, parse
from aslconvert.workers.intake.limits import DEFAULT, Limits
from aslconvert.workers.intake.names import is_dotted
from aslconvert.workers.intake.refusal import Refused
from aslconvert.workers.intake.tensors import extent

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_METADATA = "__metadata__"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def rebuild_safetensors(source: Path, target: Path, *, limits: Limits = DEFAULT) -> Rebuilt:
    """Write the tensors in ``source`` anew to ``target``; metadata is left out. The same file gives the same bytes.

    Raises:
        Refused: ``safetensors_damaged``, ``safetensors_offsets``, ``tensor_type``, ``tensor_too_large``,
            ``name_invalid`` and the codes of JSON.
        OSError: ``target`` cannot be written.
    """
    with opened(source, most=limits.file_bytes) as file:
        start, tensors = _header(file, limits)
        document = {
            t.name: {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [t.begin, t.end]} for t in tensors
        }
        header = json.dumps(document, separators=(",", ":")).encode("ascii")
        header += b" " * (-len(header) % 8)
        with replacing(target) as out:
            out.write(struct.pack("<Q", len(header)) + header)
            for block in _blocks(file, start, tensors[-1].end if tensors else 0):
                out.write(block)
    return Rebuilt("safetensors", target, target.stat().st_size, len(tensors))


def _header(file: BinaryIO, limits: Limits) -> tuple[int, list[_Tensor]]:
    """(where the data begins, tensors by their place)."""
    size = file.seek(0, 2)
    file.seek(0)
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= size - 8:
        raise Refused("safetensors_damaged", "The header is longer than the file.", entry="header")
    if length > limits.json_bytes:
        raise Refused("json_too_large", f"{length} bytes, {limits.json_bytes} are the most.", entry="header")
    cursor = parse(file.read(length), entry="header", limits=limits)
    tensors = [_tensor(name, each, limits) for name, each in cursor.items(limits.tensors + 1) if name != _METADATA]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    at = 0
    for tensor in tensors:
        if tensor.begin != at:
            raise Refused("safetensors_offsets", f"It does not begin at {at}.", entry=tensor.name)
        at = tensor.end
    if at != size - 8 - length:
        raise Refused("safetensors_offsets", f"The tensors end at {at}, the file at {size - 8 - length}.")
    return 8 + length, tensors


def _tensor(name: str, cursor: Cursor, limits: Limits) -> _Tensor:
    if not is_dotted(name, limits.name_chars):
        raise cursor.refused("name_invalid", "it is no plain dotted name.")
    fields = cursor.fields("dtype shape data_offsets")
    dtype = fields["dtype"].value
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise fields["dtype"].refused("tensor_type", "the element type is not taken.")
    shape = tuple(each.integer(0) for each in fields["shape"].elements(64))
    if len(shape) > limits.rank or extent(shape) > limits.tensor_elements:
        raise fields["shape"].refused("tensor_too_large", "too many axes or elements.")
    offsets = [each.integer(0) for each in fields["data_offsets"].elements(2)]
    count = 0 if 0 in shape else extent(shape)
    if len(offsets) != 2 or offsets[1] - offsets[0] != count * ITEM_BYTES[dtype]:
        raise fields["data_offsets"].refused("safetensors_offsets", f"they do not hold shape {list(shape)}.")
    return _Tensor(name, dtype, shape, offsets[0], offsets[1])


def _blocks(file: BinaryIO, start: int, count: int) -> Iterator[bytes]:
    file.seek(start)
    while count:
        block = file.read(min(_BLOCK, count))
        if not block:
            raise Refused("safetensors_damaged", "The file became shorter while it was read.")
        count -= len(block)
        yield block
