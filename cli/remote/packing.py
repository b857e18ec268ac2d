"""What goes to a server of a model and of data: always one file, packed or exported here where it is not one yet."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aslconvert.converter.errors import ModelRefused, UsageError
from aslconvert.converter.options import ConvertOptions
from aslconvert.service.client.sent import cache_folder
from aslconvert.workers.intake.images import EXTENSIONS

PREFIX = "arch:"
NO_DATA = "none"
DECLARATION = "data.toml"
KEPT_SECONDS = 7 * 86400.0
"""For which a folder's tar waits to be sent again: as long as a service remembers an upload."""


@dataclass(frozen=True)
class Sendable:
    """A file to send; ``architecture`` names the network of bare weights."""

    path: Path
    name: str
    architecture: str | None = None


@contextmanager
def sendable_model(spec: str) -> Iterator[Sendable]:
    """The file of a model as any command takes one; code of the user runs here and is exported, never sent.

    Raises:
        ModelRefused: there is no such model, or it cannot be exported.
    """
    path = Path(spec)
    if path.is_file():
        if path.suffix == ".py":
            hint = f"Name the factory in it: {path}:factory."
            raise ModelRefused("not_a_model", f"'{path}' is code, which is never sent.", hint=hint)
        yield Sendable(path, path.stem)
        return
    if path.exists():
        raise ModelRefused("not_a_model", f"'{path}' is a folder.", hint="Give the .pt2 file in it.")
    named = re.fullmatch(r"arch:([^@]+)@(.+)", spec)
    if named is not None:
        weights = Path(named[2])
        if not weights.is_file():
            raise ModelRefused("weights_not_found", f"There is no file '{weights}'.")
        yield Sendable(weights, named[1].rpartition("/")[2], named[1])
        return
    if ":" not in spec:
        hint = "Give a .pt2 or .onnx file, arch:NAME@weights or file.py:factory."
        raise ModelRefused("not_found", f"There is no file '{path}'.", hint=hint)
    from aslconvert.converter.export.write import write_program
    from aslconvert.converter.importers.model import model_name, open_model

    with tempfile.TemporaryDirectory(prefix="aslconvert-model-") as folder:
        file = Path(folder) / f"{model_name(spec)}.pt2"
        write_program(open_model(spec), file)
        yield Sendable(file, file.stem)


def require_data(spec: str) -> None:
    """Raises UsageError for data that cannot be sent, before anything else is.

    Its codes are ``data_not_found``, and ``data_is_code`` for what no server runs.
    """
    if Path(spec).is_file() or Path(spec).is_dir():
        return
    if spec == NO_DATA or re.fullmatch(r".+:\w+", spec):
        raise UsageError(
            "data_is_code", f"A server takes data as a file or a folder, not '{spec}'.", hint="Write an .npz file."
        )
    raise UsageError("data_not_found", f"No such file or folder: {spec}.")


@contextmanager
def sendable_data(spec: str) -> Iterator[Sendable]:
    """The file of data as `convert` takes it; a folder of images is packed as a tar, which stays until it was sent.

    Raises:
        UsageError: as of `require_data`.
    """
    require_data(spec)
    path = Path(spec)
    if path.is_file():
        yield Sendable(path, path.name.partition(".")[0] or path.name)
        return
    packed = _packed(path)
    yield Sendable(packed, path.resolve().name or "data")
    packed.unlink(missing_ok=True)


def declared_beside(spec: str, options: ConvertOptions) -> ConvertOptions:
    """The options with what a ``data.toml`` beside a file of data declares, which does not travel with the file.

    Raises UsageError: ``preprocess``.
    """
    path = Path(spec)
    toml = path.parent / DECLARATION
    if not path.is_file() or not toml.is_file():
        return options
    from aslconvert.converter.data.preprocess import Preprocess

    found = Preprocess.from_toml(toml)
    names = ("size", "scale", "mean", "std", "channels")
    beside = {name: getattr(found, name) for name in names if getattr(options, name) is None}
    return replace(options, **beside)


def listed(folder: Path) -> str:
    """A digest of what is sent of a folder, by its files' names, sizes and times."""
    words = hashlib.sha256(str(folder.resolve()).encode())
    for path in _files(folder):
        found = path.stat()
        words.update(f"\n{path.relative_to(folder)} {found.st_size} {found.st_mtime_ns}".encode())
    return words.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and _wanted(path, folder))


def _sweep(packed: Path) -> None:
    """Remove what runs have left that were killed and never run again."""
    old = time.time() - KEPT_SECONDS
    for path in packed.glob("*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < old:
                path.unlink()


def _packed(folder: Path) -> Path:
    files = _files(folder)
    if not files:
        raise UsageError("data_empty", f"'{folder}' holds no images.", hint="Name a folder of images.")
    # Named after what is in it: a command that is run again finds its tar, and the client how much of it was sent.
    target = cache_folder() / "packed" / f"{listed(folder)}.tar"
    _sweep(target.parent)
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file, tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
            for path in files:
                tar.add(path, arcname=path.relative_to(folder).as_posix(), recursive=False, filter=_anonymous)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def _wanted(path: Path, root: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS or path == root / DECLARATION


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and time: the same pictures are the same bytes, which the server keeps once."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o644
    return entry
