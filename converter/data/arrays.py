"""Opens the arrays of an .npz or .safetensors file, memory-mapped where they are stored plain."""

from __future__ import annotations

import json
import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from aslconvert.converter.data.columns import Array
from aslconvert.converter.errors import UsageError

# Compressed arrays must be held in memory; a small file may claim to hold more than the machine has.
MAX_COMPRESSED_BYTES = 8 << 30
_MAX_HEADER = 100 << 20
_SAFETENSORS_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip


def open_arrays(path: Path) -> dict[str, Array]:
    """The arrays of ``path`` by name.

    Raises:
        UsageError: ``data_broken``: damaged, truncated, pickled, too large, or of a type that numpy does not know.
    """
    try:
        return _open_npz(path) if path.suffix.lower() == ".npz" else _open_safetensors(path)
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, SyntaxError, RuntimeError, struct.error,
        tokenize.TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    ) as error:  # fmt: skip
        raise UsageError("data_broken", f"Cannot read {path.name}: {error}") from error


def _open_npz(path: Path) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
        inflated = sum(e.file_size for e in archive.infolist() if e.compress_type != zipfile.ZIP_STORED)
        if inflated > MAX_COMPRESSED_BYTES:
            raise ValueError(f"its compressed arrays hold {inflated} bytes, more than {MAX_COMPRESSED_BYTES}")
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if entry.compress_type == zipfile.ZIP_STORED:
                arrays[name] = _map_stored(path, raw.fileno(), entry)
            else:
                with archive.open(entry) as member:
                    arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def _map_stored(path: Path, descriptor: int, entry: zipfile.ZipInfo) -> Array:
    import os

    # The local header repeats the name and extra field with lengths of its own: the data begins after them.
    name_length, extra_length = struct.unpack("<HH", os.pread(descriptor, 4, entry.header_offset + 26))
    start = entry.header_offset + 30 + name_length + extra_length
    with path.open("rb") as file:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"{entry.filename} is pickled")
        offset = file.tell()
    if offset - start + int(np.prod(shape)) * dtype.itemsize > entry.file_size:
        raise ValueError(f"{entry.filename} is truncated")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")


def _open_safetensors(path: Path) -> dict[str, Array]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _MAX_HEADER:
            raise ValueError("its header is too long")
        header = json.loads(file.read(length))
    arrays: dict[str, Array] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            raise ValueError(f"{name} is of type {entry['dtype']}; use one of {', '.join(_SAFETENSORS_DTYPES)}")
        dtype, shape = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]]), tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
        if end - begin != int(np.prod(shape)) * dtype.itemsize or begin < 0:
            raise ValueError(f"{name} has offsets that do not fit its shape")
        arrays[name] = (
            np.memmap(path, dtype=dtype, mode="r", offset=8 + length + begin, shape=shape)
            if end > begin
            else np.empty(shape, dtype)
        )
    return arrays
