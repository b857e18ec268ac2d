"""Takes over what a job wrote: plain files below its folder, as many and as large as allowed, by their hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aslconvert.workers.errors import InternalError
from aslconvert.workers.storage import Blobs

REPORT = "report.json"
RESULT_BYTES = 1 << 20
REPORT_BYTES = 64 << 20


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
    """Move the files that the engine names from ``out`` to the blob store.

    Raises:
        InternalError: ``bad_result``, when they are not what the engine and its report say.
        InfrastructureError: ``disk_full``, ``storage_unavailable``.
    """
    told = _told(folder / "result.json")
    out = (folder / "out").resolve()
    promised = _promised(out) if REPORT in told.files else {}
    stored: dict[str, dict[str, Any]] = {}
    total = 0
    for name in told.files:
        path = out / name
        # A link would name a file of this machine that the job could not read itself.
        if path.is_symlink() or path.resolve() != path or not path.is_relative_to(out) or not path.is_file():
            raise InternalError("bad_result", f"{name!r} is no file of the result.")
        total += path.stat().st_size
        if total > most_bytes:
            raise InternalError("bad_result", f"The result has more than {most_bytes} bytes.")
        blob = blobs.adopt(path)
        if promised.get(name, blob.hash) != blob.hash:
            raise InternalError("bad_result", f"{name!r} is not the file that the report describes.")
        stored[name] = {"sha256": blob.hash, "size": blob.size}
    if missing := sorted(set(promised) - set(stored)):
        raise InternalError("bad_result", f"The report describes {missing[0]!r}, which is not there.")
    result = {**told.model_dump(mode="json"), "files": stored}
    return Taken(result, tuple(sorted({entry["sha256"] for entry in stored.values()})))


def _told(path: Path) -> EngineResult:
    try:
        if path.stat().st_size > RESULT_BYTES:
            raise InternalError("bad_result", f"The result is described in more than {RESULT_BYTES} bytes.")
        return EngineResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InternalError("bad_result", "The engine gave no result that can be read.") from error


def _promised(out: Path) -> Mapping[str, str]:
    """The hashes of artifacts by name, as the report has them."""
    path = out / REPORT
    try:
        if path.is_symlink() or path.stat().st_size > REPORT_BYTES:
            raise InternalError("bad_result", "The report is no file of a reasonable size.")
        record = json.loads(path.read_bytes())
        return {str(entry["path"]): str(entry["sha256"]) for entry in record["artifacts"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InternalError("bad_result", "The report cannot be read.") from error
