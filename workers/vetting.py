"""What every sandbox does first with files from strangers: rebuilds them; and the work of one that only vets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aslconvert.workers.intake.datasets import Summary, check_data
from aslconvert.workers.intake.files import Rebuilt
from aslconvert.workers.intake.kinds import Kind
from aslconvert.workers.intake.refusal import Refused
from aslconvert.workers.intake.vet import vet

ENGINE: Final = f"{__name__}:run"
_KINDS: Final = {Kind.IMAGES_ZIP: "images", Kind.IMAGES_TAR: "images", Kind.NPZ: "npz", Kind.SAFETENSORS: "safetensors"}
_CONTAINERS: Final = {Kind.IMAGES_ZIP: "zip", Kind.IMAGES_TAR: "tar"}


@dataclass(frozen=True)
class Inputs:
    """Rebuilt files as the converter names them: ``model`` as of its commands, ``data`` a folder or a file."""

    model: str | None
    data: Path | None
    summary: Summary | None


def vetted_inputs(folder: Path, *, model: Path | None, data: Path | None, architecture: str | None) -> Inputs:
    """Rebuild what is given below ``folder``; ``architecture`` names the network of bare weights.

    Raises:
        Refused: as of the intake.
    """
    folder.mkdir(exist_ok=True)
    name, target, summary = None, None, None
    if model is not None:
        rebuilt = vet(model, folder / "model", kind="model")
        # A model is rebuilt as what it is: pt2, onnx or safetensors.
        path = folder / f"model.{rebuilt.kind}"
        (folder / "model").rename(path)
        name = f"arch:{architecture}@{path}" if architecture else str(path)
    if data is not None:
        target = folder / "data"
        summary = vet(data, target, kind="data")
        arrays = [target / one for one in ("arrays.npz", "arrays.safetensors")]
        target = next((path for path in arrays if path.is_file()), target)
    return Inputs(name, target, summary)


def run(*, kind: str, payload: Mapping[str, Any], folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """Read the file ``payload["path"]`` as a ``model`` or a ``dataset``; what is rebuilt is not kept.

    Gives ``{"kind": ..., "facts": {...}}``, or ``{"refused": {code, message, hint, entry}}`` where intake does not take
    it.
    """
    source = Path(payload["path"])
    try:
        if kind == "model":
            return _model(vet(source, folder / "rebuilt", kind="model"))
        return _data(check_data(source))
    except Refused as error:
        refused = {"code": error.code, "message": error.message, "hint": error.hint, "entry": error.entry}
        return {"refused": refused}


def _model(found: Rebuilt) -> dict[str, Any]:
    facts = {"rebuilt_bytes": found.size, "tensors": found.tensors, "operators": dict(sorted(found.operators.items()))}
    return {"kind": found.kind, "facts": facts}


def _data(found: Summary) -> dict[str, Any]:
    facts = {
        "container": _CONTAINERS.get(found.kind),
        "images": found.images,
        "arrays": found.arrays,
        "unpacked_bytes": found.bytes,
        "broken": found.broken,
        "broken_files": [{"file": name, "why": why} for name, why in found.broken_names],
        "left_out": found.left_out,
    }
    return {"kind": _KINDS[found.kind], "facts": facts}
