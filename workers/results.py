"""Takes over what a job wrote: plain files below its folder, as many and as large as allowed, by their hashes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aslconvert.workers.errors import InternalError
from aslconvert.workers.plain import NotPlain, open_plain, read_plain
from aslconvert.workers.storage import Blobs

REPORT = "report.json"
RESULT_BYTES = 1 << 20
REPORT_BYTES = 64 << 20
CHUNK = 1 << 20


class Missed(BaseModel):
    """Why what was found is not what was asked for."""

    model_config = ConfigDict(extra="forbid")

    code: str
    message: str
    hint: str = ""


class EngineResult(BaseModel):
    """``result.json`` of a job; whatever else the engine tells is kept as it is."""

    model_config = ConfigDict(extra="allow")

    files: Annotated[list[str], Field(max_length=1000)]
    missed: Missed | None = None


@dataclass(frozen=True)
class Taken:
    """The result to store with the job, and the blobs that it names."""

    result: dict[str, Any]
    blobs: tuple[str, ...]


def take(folder: Path, blobs: Blobs, *, most_bytes: int) -> Taken:
    """Copy the files that the engine names from ``out`` to the blob store.

    What is read was open before it was looked at, and its bytes are hashed as they are stored: whatever the folder is
    made into meanwhile, nothing else of this machine gets into a result.

    Raises:
        InternalError: ``bad_result``, when they are not what the engine and its report say.
        InfrastructureError: ``disk_full``, ``storage_unavailable``.
    """
    told = _told(folder)
    out = folder / "out"
    promised = _promised(folder) if REPORT in told.files else {}
    stored: dict[str, dict[str, Any]] = {}
    left = most_bytes
    for name in told.files:
        try:
            with open_plain(folder, f"{out.name}/{name}") as file:
                blob = blobs.put(_at_most(file, left))
        except NotPlain as error:
            raise InternalError("bad_result", f"{name!r} is no file of the result.") from error
        left -= blob.size
        if promised.get(name, blob.hash) != blob.hash:
            raise InternalError("bad_result", f"{name!r} is not the file that the report describes.")
        stored[name] = {"sha256": blob.hash, "size": blob.size}
    if missing := sorted(set(promised) - set(stored)):
        raise InternalError("bad_result", f"The report describes {missing[0]!r}, which is not there.")
    result = {**told.model_dump(mode="json"), "files": stored}
    return Taken(result, tuple(sorted({entry["sha256"] for entry in stored.values()})))


def _at_most(file: BinaryIO, most: int) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        most -= len(chunk)
        if most < 0:
            raise InternalError("bad_result", "The result has more bytes than are kept.")
        yield chunk


def _told(folder: Path) -> EngineResult:
    try:
        return EngineResult.model_validate_json(read_plain(folder, "result.json", most=RESULT_BYTES))
    except (NotPlain, ValidationError) as error:
        raise InternalError("bad_result", "The engine gave no result that can be read.") from error


def _promised(folder: Path) -> Mapping[str, str]:
    """The hashes of artifacts by name, as the report has them."""
    try:
        record = json.loads(read_plain(folder, f"out/{REPORT}", most=REPORT_BYTES))
        return {str(entry["path"]): str(entry["sha256"]) for entry in record["artifacts"]}
    except (NotPlain, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InternalError("bad_result", "The report cannot be read.") from error
