"""Data from strangers: archives of images are unpacked, arrays rebuilt, and what cannot be read is counted."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aslconvert.workers.intake.files import opened, replacing
from aslconvert.workers.intake.images import EXTENSIONS, broken
from aslconvert.workers.intake.kinds import Kind, identify
from aslconvert.workers.intake.limits import DEFAULT, Limits
from aslconvert.workers.intake.names import is_dotted
from aslconvert.workers.intake.npy import split_header
from aslconvert.workers.intake.paths import folded, safe_parts
from aslconvert.workers.intake.refusal import Refused, shown
from aslconvert.workers.intake.safetensors_file import rebuild_safetensors
from aslconvert.workers.intake.tarread import read_tar
from aslconvert.workers.intake.zipread import Entry, ZipFile
from aslconvert.workers.intake.zipwrite import LARGEST, ZipWriter

_NAMED = 5
_SMALL = 64 << 10
_CLASS = re.compile(rb"\s*[0-9]{1,6}\s*\Z")
_Part = tuple[str, int, bool, Iterator[bytes]]


@dataclass(frozen=True)
class Summary:
    """What was found: ``broken`` images are counted and the first of them named, as (name, why)."""

    kind: Kind
    images: int = 0
    arrays: int = 0
    bytes: int = 0
    broken: int = 0
    broken_names: tuple[tuple[str, str], ...] = ()
    left_out: int = 0
    """Files that are neither images, arrays, class numbers nor a data.toml."""


def check_data(source: Path, *, limits: Limits = DEFAULT) -> Summary:
    """As `unpack_data`, keeping nothing but one file at a time in the temporary folder."""
    with tempfile.TemporaryDirectory(prefix="aslconvert-data-") as folder:
        return _taken(source, Path(folder), limits, keep=False)


def unpack_data(source: Path, target: Path, *, limits: Limits = DEFAULT) -> Summary:
    """Write the data in ``source`` below the folder ``target``, which must be empty or not there.

    Images lie as in the archive; arrays are rebuilt as ``arrays.npz`` or ``arrays.safetensors``. After a refusal what
    was written so far is there still, for the caller to remove.

    Raises:
        Refused: ``data_empty``, ``data_all_broken``, ``kind_mismatch``, and the codes of archives and arrays.
        OSError: ``target`` cannot be written.
    """
    target.mkdir(parents=True, exist_ok=True)
    return _taken(source, target, limits, keep=True)


def _taken(source: Path, target: Path, limits: Limits, *, keep: bool) -> Summary:
    kind = identify(source, limits=limits)
    if kind is Kind.SAFETENSORS:
        rebuilt = rebuild_safetensors(source, target / "arrays.safetensors", limits=limits)
        return Summary(kind, arrays=rebuilt.tensors, bytes=rebuilt.size)
    if kind not in (Kind.NPZ, Kind.IMAGES_ZIP, Kind.IMAGES_TAR):
        raise Refused("kind_mismatch", f"It is {kind.value}, no data.")
    with opened(source, most=limits.data_file_bytes) as file:
        if kind is Kind.NPZ:
            return _arrays(file, target, limits)
        parts = _zipped(file, limits) if kind is Kind.IMAGES_ZIP else read_tar(file, limits=limits)
        return _images(kind, parts, target, limits, keep=keep)


def _zipped(file: BinaryIO, limits: Limits) -> Iterator[_Part]:
    archive = ZipFile(file, limits=limits, most_entries=limits.data_entries, compressed=True)
    for entry in archive.entries.values():
        yield entry.name, entry.size, entry.is_folder, archive.blocks(entry)


def _images(kind: Kind, parts: Iterable[_Part], target: Path, limits: Limits, *, keep: bool) -> Summary:
    images = total = left_out = bad = 0
    named: list[tuple[str, str]] = []
    seen: set[str] = set()
    for number, (name, size, is_folder, blocks) in enumerate(parts, start=1):
        if number > limits.data_entries:
            raise Refused("archive_entries", f"more than {limits.data_entries} entries.")
        path = _new_path(name, seen, target, is_folder=is_folder)
        total += size
        if total > limits.data_bytes:
            raise Refused("archive_too_large", f"It unpacks to over {limits.data_bytes} bytes.")
        if is_folder:
            continue
        if path.suffix.lower() in EXTENSIONS:
            images += 1
            _store(blocks, path)
            if why := broken(path, limits=limits):
                bad += 1
                named += [(shown(name), why)] if len(named) < _NAMED else []
            if why or not keep:
                path.unlink()
        elif not _kept_description(path, size, blocks, keep=keep):
            left_out += 1
    if images == 0:
        raise Refused("data_empty", f"There is no file of {', '.join(sorted(EXTENSIONS))} in it.")
    if images == bad:
        raise Refused("data_all_broken", f"None of {images} can be read, such as {named[0][0]}: {named[0][1]}.")
    return Summary(kind, images - bad, 0, total, bad, tuple(named), left_out)


def _new_path(name: str, seen: set[str], target: Path, *, is_folder: bool) -> Path:
    """Where an entry goes; no two go to the same place, and none to a place that a file is in the way of."""
    parts = safe_parts(name)
    key = folded("/".join(parts))
    if f"{key}\0" in seen or (not is_folder and key in seen):
        raise Refused("archive_duplicate_entry", "The name is there twice.", entry=shown(name))
    # A file is marked apart from the folders above it, which may come up again.
    seen.add(f"{key}\0" if not is_folder else key)
    for depth in range(1, len(parts)):
        above = folded("/".join(parts[:depth]))
        if f"{above}\0" in seen:
            raise Refused("archive_duplicate_entry", "A file lies where a folder must.", entry=shown(name))
        seen.add(above)
    return target.joinpath(*parts)


def _store(blocks: Iterable[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for block in blocks:
            file.write(block)


def _kept_description(path: Path, size: int, blocks: Iterator[bytes], *, keep: bool) -> bool:
    """Whether the file is a class number of a WebDataset or the description of how to prepare images."""
    if path.suffix.lower() not in (".cls", ".toml") or size > _SMALL:
        return False
    content = b"".join(blocks)
    is_class = path.suffix.lower() == ".cls" and _CLASS.match(content) is not None
    is_toml = path.name == "data.toml" and content.isascii() and b"\0" not in content
    if keep and (is_class or is_toml):
        _store([content.strip() if is_class else content], path)
    return is_class or is_toml


def _arrays(file: BinaryIO, target: Path, limits: Limits) -> Summary:
    """A new npz, stored, whose arrays have headers of our own."""
    archive = ZipFile(file, limits=limits, most_entries=limits.tensors, compressed=True)
    total = sum(entry.size for entry in archive.entries.values())
    if total > min(limits.data_bytes, LARGEST):
        raise Refused("archive_too_large", f"It unpacks to {total} bytes.")
    with replacing(target / "arrays.npz") as out:
        writer = ZipWriter(out)
        for name, entry in archive.entries.items():
            _array(writer, name, archive, entry, limits)
        writer.close()
        size = out.seek(0, 2)
    return Summary(Kind.NPZ, arrays=len(archive.entries), bytes=size)


def _array(writer: ZipWriter, name: str, archive: ZipFile, entry: Entry, limits: Limits) -> None:
    if not name.endswith(".npy") or not is_dotted(name.removesuffix(".npy"), limits.name_chars):
        raise Refused("name_invalid", "The array has no plain name.", entry=shown(name))
    header, blocks = split_header(archive.blocks(entry), entry=name, limits=limits)
    printed = header.printed()

    def content() -> Iterator[bytes]:
        yield printed
        yield from blocks

    # Told beforehand: the writer would raise another error for a file that is shorter than it says.
    if entry.size < header.nbytes:
        raise Refused("array_damaged", f"{header.nbytes - entry.size} bytes are missing to its shape.", entry=name)
    writer.write(name, content(), size=len(printed) + header.nbytes)
