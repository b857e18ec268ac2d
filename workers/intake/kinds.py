"""What kind of file something is, by its content and never by its name."""

from __future__ import annotations

from enum import Enum
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from aslconvert.workers.intake.files import opened
from aslconvert.workers.intake.images import EXTENSIONS
from aslconvert.workers.intake.limits import DEFAULT, Limits
from aslconvert.workers.intake.refusal import Refused
from aslconvert.workers.intake.tarread import RECORD, Stream, is_packed
from aslconvert.workers.intake.zipread import ZipFile


class Kind(Enum):
    """What is taken."""

    PT2 = "an exported program"
    ONNX = "an ONNX model"
    SAFETENSORS = "a file of safetensors"
    NPZ = "an archive of arrays"
    IMAGES_ZIP = "a zip of images"
    IMAGES_TAR = "a tar of images"


MODELS = (Kind.PT2, Kind.ONNX, Kind.SAFETENSORS)
DATA = (Kind.SAFETENSORS, Kind.NPZ, Kind.IMAGES_ZIP, Kind.IMAGES_TAR)


def identify(path: Path, *, limits: Limits = DEFAULT) -> Kind:
    """The kind of the file at ``path``; it may still be refused when it is read whole.

    Raises Refused: ``kind_unknown``, ``kind_code``, ``file_unreadable`` and, for archives, their codes.
    """
    with opened(path, most=max(limits.file_bytes, limits.data_file_bytes)) as file:
        start = file.read(RECORD)
        size = file.seek(0, 2)
        # Before the others: a header's length may begin as they do, and none of them goes on with zeros and a brace.
        if 2 <= int.from_bytes(start[:8], "little") <= size - 8 and start[8:9] == b"{":
            return Kind.SAFETENSORS
        if start.startswith(b"PK"):
            return _zip(file, limits)
        if start.startswith(b"\x80") and start[1:2] <= b"\x05" and b"." in start:
            raise Refused("kind_code", "It is a pickle.")
        if is_packed(start) or start[257:262] == b"ustar" or _is_old_tar(start):
            return _tar(file, limits)
        # The first field of a model is the version of its format, or after other writers a name or the graph.
        if start[:1] in (b"\x08", b"\x12", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42", b"\x72"):
            return Kind.ONNX
    raise Refused("kind_unknown", "It is nothing that is read.")


def _is_old_tar(start: bytes) -> bool:
    digits = start[148:156].strip(b" \0")
    if len(start) < RECORD or not digits.isdigit() or b"8" in digits or b"9" in digits:
        return False
    return sum(start[:148]) + 8 * 32 + sum(start[156:]) == int(digits, 8)


def _tar(file: BinaryIO, limits: Limits) -> Kind:
    start = Stream(file, limits=limits).take(RECORD)
    if start[257:262] == b"ustar" or _is_old_tar(start):
        return Kind.IMAGES_TAR
    raise Refused("kind_unknown", "It is compressed, and no tar.")


def _zip(file: BinaryIO, limits: Limits) -> Kind:
    most = max(limits.entries, limits.data_entries)
    names = list(ZipFile(file, limits=limits, most_entries=most, compressed=True).entries)
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or any(name.startswith("models/") for name in inner):
        return Kind.PT2
    if any("serialized_exported_program.json" in name for name in names):
        return Kind.PT2
    if any(name == "data.pkl" or name.startswith("code/") for name in inner):
        raise Refused("kind_code", "It is a file of torch.save or TorchScript.")
    if names and all(name.endswith(".npy") for name in names):
        return Kind.NPZ
    if any(PurePosixPath(name).suffix.lower() in EXTENSIONS for name in names):
        return Kind.IMAGES_ZIP
    raise Refused("kind_unknown", "The zip holds neither a model, nor arrays, nor images.")
