"""What a model would see of a data set, told inside a sandbox by the converter's own loading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aslconvert.workers.intake.datasets import Summary
from aslconvert.workers.vetting import vetted_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from aslconvert.converter.data.dataset import Dataset

MOST_CLASSES: Final = 1000
MOST_PIXELS: Final = 256
"""Of a picture's side as it is shown."""


def run(*, kind: str, payload: Mapping[str, Any], folder: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """Open the data at ``payload["data"]`` as the model at ``payload["model"]`` would be given it, if there is one.

    ``samples`` is how many are shown, ``options`` how they are prepared (as of a conversion), ``architecture`` the
    network of bare weights.

    Raises:
        AslconvertError, Refused: as of the engine and of the intake.
    """
    found = vetted_inputs(
        folder / "vetted",
        model=Path(payload["model"]) if payload.get("model") else None,
        data=Path(payload["data"]),
        architecture=payload.get("architecture"),
    )
    # Only now: what was uploaded has been rebuilt before torch is there to be attacked.
    from aslconvert.converter.data.inputs import model_inputs
    from aslconvert.converter.data.load import load_dataset, load_for_model
    from aslconvert.converter.importers.model import open_model
    from aslconvert.converter.options import ConvertOptions

    given: dict[str, Any] = {}
    for name, value in dict(payload["options"]).items():
        given[name] = tuple(value) if isinstance(value, list) else value
    if found.model is None:
        dataset = load_dataset(str(found.data), **given)
    else:
        options = ConvertOptions(**given)
        dataset = load_for_model(str(found.data), model_inputs(open_model(found.model)), options)
    return described(dataset, samples=int(payload["samples"]), summary=found.summary)


def described(dataset: Dataset, *, samples: int, summary: Summary | None) -> dict[str, Any]:
    """The preview of a data set as JSON."""
    import numpy as np

    from aslconvert.converter.data.dataset import Subset

    chosen = Subset(dataset, np.arange(len(dataset))).take(samples)
    batch = chosen.batch(range(len(chosen)))
    labels = None if batch.label is None else batch.label.tolist()
    return {
        "inputs": [
            {"sample": sample, "label": _label(dataset, labels, sample), **_shown(name, values[sample])}
            for sample in range(len(chosen))
            for name, values in zip(dataset.inputs, batch.inputs, strict=True)
        ],
        "samples": len(chosen),
        "total": len(dataset),
        "splits": dataset.samples_by_split,
        "classes": _classes(dataset),
        "broken": [{"file": name, "why": why} for name, why in (summary.broken_names if summary else ())],
        "preprocessing": dataset.preprocessing,
        "notes": list(dataset.notes),
    }


def _label(dataset: Dataset, labels: Sequence[int] | None, sample: int) -> str | None:
    if labels is None:
        return None
    return dataset.classes[labels[sample]] if dataset.classes else str(labels[sample])


def _classes(dataset: Dataset) -> dict[str, int]:
    """How many samples each class has; the most frequent ones where there are many."""
    if dataset.label is None:
        return {}
    import numpy as np

    values, counts = np.unique(dataset.label.read(np.arange(len(dataset))).numpy(), return_counts=True)
    named = [dataset.classes[value] if dataset.classes else str(value) for value in values.tolist()]
    found = sorted(zip(counts.tolist(), named, strict=True), key=lambda pair: -pair[0])[:MOST_CLASSES]
    return {name: count for count, name in found}


def _shown(name: str, value: Tensor) -> dict[str, Any]:
    numbers = value.double()
    return {
        "name": name,
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "minimum": float(numbers.min()) if value.numel() else None,
        "maximum": float(numbers.max()) if value.numel() else None,
        "mean": float(numbers.mean()) if value.numel() else None,
        "image": _picture(numbers),
    }


def _picture(values: Tensor) -> str | None:
    """A data URL of [C, H, W] or [H, W] values with one or three channels, from their least to their greatest."""
    import base64
    import io

    from PIL import Image

    planes = values if values.ndim == 3 else values[None]
    if planes.ndim != 3 or planes.shape[0] not in (1, 3) or min(planes.shape[1:]) < 2:
        return None
    low, high = float(planes.min()), float(planes.max())
    if not (low >= 0 and high <= 1):
        planes = (planes - low) / ((high - low) or 1.0)
    pixels = (planes * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
