"""Opens the user's data, whatever its form, and returns it checked, hashed and split."""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from aslconvert.converter.data.archive import is_archive, unpack
from aslconvert.converter.data.arrays import open_arrays
from aslconvert.converter.data.columns import Array, ArrayColumn, Column, MappedColumn, chunks
from aslconvert.converter.data.dataset import UNNAMED, Dataset
from aslconvert.converter.data.factory import arrays_from_factory, is_factory
from aslconvert.converter.data.images import read_image_folder
from aslconvert.converter.data.inputs import InputSpec
from aslconvert.converter.data.preprocess import Channels, Preprocess
from aslconvert.converter.data.split import SPLITS, IntArray, assign, group_ids
from aslconvert.converter.errors import UsageError
from aslconvert.converter.options import ConvertOptions

RESERVED = ("target", "label", "group", "split")


def load_dataset(
    spec: str,
    *,
    size: tuple[int, int] | None = None,
    scale: float | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    channels: Channels | None = None,
    input_names: Sequence[str] | None = None,
) -> Dataset:
    """Open ``spec``: an image folder, a zip or tar of one, an ``.npz`` or ``.safetensors``, or ``module:factory``.

    What is not declared here is taken from a ``data.toml`` inside the folder or beside the file. ``input_names`` are
    needed only where a factory yields its inputs as a tuple. Call ``Dataset.for_model`` next.

    Raises:
        UsageError: ``data_not_found``, ``data_empty``, ``data_broken``, ``data_archive``, ``data_shape``,
            ``data_nan``, ``data_factory``, ``preprocess`` or ``too_few_samples``.
    """
    declared = Preprocess(size=size, scale=scale, mean=mean, std=std, channels=channels)
    if is_factory(spec):
        return _from_arrays(spec, arrays_from_factory(spec, input_names), declared)
    path = Path(spec)
    if not path.exists():
        raise UsageError("data_not_found", f"No such file or folder: {spec}.")
    toml = (path if path.is_dir() else path.parent) / "data.toml"
    if toml.is_file():
        declared = declared.over(Preprocess.from_toml(toml))
    if path.is_dir():
        return _from_images(path.name, path, declared)
    if is_archive(path):
        return _from_archive(path, declared)
    if path.suffix.lower() in (".npz", ".safetensors"):
        return _from_arrays(path.name, open_arrays(path), declared)
    raise UsageError(
        "data_not_found",
        f"{path.name} is none of: image folder, .zip, .tar, .npz, .safetensors, module:factory, file.py:factory.",
    )


def load_for_model(spec: str, specs: Sequence[InputSpec], options: ConvertOptions) -> Dataset:
    """Open ``spec`` prepared as the options declare, with exactly the inputs a model wants (``inputs.model_inputs``).

    Raises:
        UsageError: as of ``load_dataset`` and ``Dataset.for_model``.
    """
    dataset = load_dataset(
        spec,
        size=options.size,
        scale=options.scale,
        mean=options.mean,
        std=options.std,
        channels=options.channels,
        input_names=[wanted.name for wanted in specs],
    )
    return dataset.for_model(specs)


def _from_archive(path: Path, declared: Preprocess) -> Dataset:
    folder = tempfile.TemporaryDirectory(prefix="aslconvert-data-")
    try:
        unpack(path, Path(folder.name))
        dataset = _from_images(path.name, Path(folder.name), declared)
    except BaseException:
        folder.cleanup()
        raise
    # Images too large to be held are read from the folder for as long as the data set lives.
    weakref.finalize(dataset.inputs[UNNAMED], folder.cleanup)
    return dataset


def _from_images(source: str, root: Path, declared: Preprocess) -> Dataset:
    preprocess = declared.for_images()
    folder = read_image_folder(root, preprocess)
    groups, keys = group_ids(folder.hashes, None)
    preprocess.values(folder.column.read(np.zeros(1, dtype=np.int64)))  # a wrong mean or std shows now, not later
    return Dataset(
        source=source,
        inputs={UNNAMED: MappedColumn(folder.column, preprocess.values, torch.float32)},
        target=None,
        label=None if folder.labels is None else ArrayColumn(np.array(folder.labels, dtype=np.int64)),
        groups=groups,
        splits=assign(groups, keys),
        preprocessing=preprocess.describe(),
        classes=folder.classes,
        notes=folder.notes + _duplicates(groups),
    )


def _from_arrays(source: str, arrays: Mapping[str, Array], declared: Preprocess) -> Dataset:
    if declared.size is not None or declared.channels is not None:
        raise UsageError("preprocess", "size and channels apply to images only; arrays are used as stored.")
    # torch takes no foreign byte order.
    arrays = {name: a if a.dtype.isnative else a.astype(a.dtype.newbyteorder("=")) for name, a in arrays.items()}
    inputs = {name: array for name, array in arrays.items() if name not in RESERVED}
    _check_lengths(source, arrays, inputs)
    for name, array in arrays.items():
        if name in inputs or name == "target":
            _check_finite(source, name, array)
    hashes = _content_hashes(inputs)
    given = None if "group" not in arrays else [str(g) for g in arrays["group"].tolist()]
    groups, keys = group_ids(hashes, given)
    splits, notes = _splits(source, arrays.get("split"), groups, keys)
    return Dataset(
        source=source,
        inputs={name: _prepared(ArrayColumn(array), declared) for name, array in inputs.items()},
        target=None if "target" not in arrays else ArrayColumn(arrays["target"]),
        label=None if "label" not in arrays else _labels(source, arrays["label"]),
        groups=groups,
        splits=splits,
        preprocessing=replace(declared, size=None).describe(),
        notes=notes + (_duplicates(groups) if given is None else ()),
    )


def _check_lengths(source: str, arrays: Mapping[str, Array], inputs: Mapping[str, Array]) -> None:
    if not inputs:
        held = ", ".join(arrays) or "nothing"
        raise UsageError("data_missing_input", f"{source} holds no input arrays, only {held}.")
    if scalars := [name for name, array in arrays.items() if array.ndim == 0]:
        raise UsageError("data_shape", f"{source}: {', '.join(scalars)} has no sample axis.")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UsageError("data_shape", f"{source}: the arrays hold different numbers of samples: {told}.")
    if not next(iter(lengths.values())):
        raise UsageError("data_empty", f"{source} holds no samples.")
    for name, array in arrays.items():
        if name not in ("group", "split") and array.dtype.kind not in "biuf":
            raise UsageError("data_broken", f"{source}: {name} is of type {array.dtype}; numbers are needed.")
    for name in ("group", "split", "label"):
        if name in arrays and arrays[name].ndim != 1:
            raise UsageError("data_shape", f"{source}: {name} must be one number a sample, got {arrays[name].shape}.")


def _check_finite(source: str, name: str, array: Array) -> None:
    if array.dtype.kind != "f":
        return
    bad, first = 0, None
    for start, block in chunks(array):
        wrong = ~np.isfinite(block)
        if wrong.any():
            bad += int(wrong.sum())
            if first is None:
                index = np.argwhere(wrong)[0]
                first = (start + int(index[0]), *(int(i) for i in index[1:]))
    if first is not None:
        raise UsageError(
            "data_nan", f"{source}: {name} holds {bad} values that are NaN or infinite, the first at {list(first)}."
        )


def _content_hashes(inputs: Mapping[str, Array]) -> list[str]:
    count = len(next(iter(inputs.values())))
    digests = [hashlib.sha256() for _ in range(count)]
    for name in sorted(inputs):
        for start, block in chunks(inputs[name]):
            for offset, sample in enumerate(block):
                digests[start + offset].update(sample.tobytes())
    return [digest.hexdigest() for digest in digests]


def _splits(
    source: str, explicit: Array | None, groups: IntArray, keys: Sequence[str]
) -> tuple[IntArray, tuple[str, ...]]:
    if explicit is None:
        return assign(groups, keys), ()
    splits = explicit.astype(np.int64)
    if explicit.dtype.kind not in "iu" or splits.min() < 0 or splits.max() >= len(SPLITS):
        raise UsageError("data_shape", f"{source}: split must hold integers 0 to 3, for {', '.join(SPLITS)}.")
    if empty := [name for number, name in enumerate(SPLITS) if not (splits == number).any()]:
        raise UsageError("too_few_samples", f"{source}: its split array leaves {', '.join(empty)} empty.")
    pairs = np.unique(np.stack([groups, splits]), axis=1)
    crossing = int((np.bincount(pairs[0]) > 1).sum())
    if not crossing:
        return splits, ()
    return splits, (f"{crossing} groups or duplicates lie in more than one split, as its split array asks",)


def _prepared(column: Column, declared: Preprocess) -> Column:
    return MappedColumn(column, declared.values, torch.float32) if declared.changes_values else column


def _labels(source: str, labels: Array) -> Column:
    if labels.dtype.kind not in "iu":
        raise UsageError("data_shape", f"{source}: label must hold integers, got {labels.dtype}.")
    return ArrayColumn(labels.astype(np.int64))


def _duplicates(groups: IntArray) -> tuple[str, ...]:
    repeats = len(groups) - len(np.unique(groups))
    return (f"{repeats} samples repeat another; copies share a split",) if repeats else ()
