"""What hostile files are put together from: attacks, the parts of an export, and zips that no library writes."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REBUILT = "rebuilt"
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"
Parts = dict[str, bytes]
Edit = Callable[[Any], None]


@dataclass(frozen=True)
class Attack:
    """``content`` is the whole file."""

    name: str
    code: str
    content: bytes
    kind: str = "model"


class Evil:
    """Unpickling it makes the canary."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.canary, "w")


def pack(parts: Parts, *, root: str = "archive", method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as torch would read it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(f"{root}/{name}"), content, method)
    return file.getvalue()


def unpack(content: bytes) -> Parts:
    """The parts of an export."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def edited(parts: Parts, name: str, edit: Edit) -> Parts:
    """With one JSON file changed."""
    document = json.loads(parts[name])
    edit(document)
    return {**parts, name: json.dumps(document).encode()}


def many(names: list[str]) -> bytes:
    """A zip of empty files, with a long end record: by hand, as the library takes its time for so many."""
    records, directory = bytearray(), bytearray()
    for name in map(str.encode, names):
        common = struct.pack("<5H3L2H", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0)
        directory += b"PK\x01\x02\x14\0" + common + struct.pack("<3H2L", 0, 0, 0, 0, len(records)) + name
        records += b"PK\x03\x04" + common + name
    count, size, start, end = len(names), len(directory), len(records), len(records) + len(directory)
    long = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    short = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, size, start, 0)
    return bytes(records + directory) + long + locator + short


def merged(one: bytes, other: bytes) -> bytes:
    """Two zips as one, of which Python's reader warns where names are there twice."""
    file = io.BytesIO()
    contents = []
    for content in (one, other):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            contents += [(info.filename, archive.read(info)) for info in archive.infolist()]
    records, directory = b"", b""
    for name, content in contents:
        single = io.BytesIO()
        with zipfile.ZipFile(single, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), content)
        raw = single.getvalue()
        start = raw.index(b"PK\x01\x02")
        header = bytearray(raw[start : raw.rindex(b"PK\x05\x06")])
        struct.pack_into("<L", header, 42, len(records))
        records, directory = records + raw[:start], directory + bytes(header)
    count = len(contents)
    file.write(records + directory)
    file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(records), 0))
    return file.getvalue()


def with_name(whole: bytes, name: str) -> bytes:
    """One more entry, of this name."""
    placeholder = "p" * len(name.encode())
    extra = merged(whole, pack({placeholder: b"x"}, root="q"))
    return extra.replace(f"q/{placeholder}".encode(), name.encode() + b"zz")


def patched(whole: bytes, magic: bytes, offset: int, value: bytes, *, which: int = 0) -> bytes:
    """With bytes of the header number ``which`` replaced."""
    at = -1
    for _ in range(which + 1):
        at = whole.index(magic, at + 1)
    return whole[: at + offset] + value + whole[at + offset + len(value) :]
