"""The door: a file from a stranger goes in, a rebuilt one comes out, or a refusal with a code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

from aslconvert.workers.intake.datasets import Summary, unpack_data
from aslconvert.workers.intake.files import Rebuilt
from aslconvert.workers.intake.kinds import DATA, MODELS, Kind, identify
from aslconvert.workers.intake.limits import DEFAULT, Limits
from aslconvert.workers.intake.onnx_file import rebuild_onnx
from aslconvert.workers.intake.program import rebuild_program
from aslconvert.workers.intake.refusal import Refused
from aslconvert.workers.intake.safetensors_file import rebuild_safetensors

_REBUILD = {Kind.PT2: rebuild_program, Kind.ONNX: rebuild_onnx, Kind.SAFETENSORS: rebuild_safetensors}


@overload
def vet(source: Path, target: Path, *, kind: Literal["model"], limits: Limits = DEFAULT) -> Rebuilt: ...
@overload
def vet(source: Path, target: Path, *, kind: Literal["data"], limits: Limits = DEFAULT) -> Summary: ...


def vet(source: Path, target: Path, *, kind: str, limits: Limits = DEFAULT) -> Rebuilt | Summary:
    """Rebuild ``source`` by its content. ``kind`` is ``model`` (``target`` becomes a file) or ``data`` (a folder).

    Raises:
        Refused: with a code of docs/intake.md; ``kind_mismatch`` where the content is not of ``kind``.
        ValueError: ``kind`` is neither.
        OSError: ``target`` cannot be written.
    """
    if kind not in ("model", "data"):
        raise ValueError(f"kind is 'model' or 'data', not {kind!r}")
    found = identify(source, limits=limits)
    if found not in (MODELS if kind == "model" else DATA):
        raise Refused("kind_mismatch", f"It is {found.value}, and a {kind} was asked for.")
    if kind == "data":
        return unpack_data(source, target, limits=limits)
    return _REBUILD[found](source, target, limits=limits)
