"""Takes samples from the user's own code: `module:factory` or `file.py:factory`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aslconvert.converter.data.columns import Array
from aslconvert.converter.errors import UsageError

MAX_SAMPLES = 20_000


def arrays_from_factory(spec: str, input_names: Sequence[str] | None) -> dict[str, Array]:
    """Stack the samples that ``factory()`` yields: each ``(inputs, target or None)``, both without a batch axis.

    ``inputs`` is a tensor, a tuple of tensors in the model's order, or a dict by input name. An integer scalar target
    becomes ``label``, any other ``target``.

    Raises:
        UsageError: ``data_not_found``, ``data_factory``, ``data_empty``, ``data_shape``.
    """
    columns: dict[str, list[Array]] = {}
    try:
        samples: Iterable[Any] = import_function(spec)()
        for number, sample in enumerate(samples):
            if number >= MAX_SAMPLES:
                break
            inputs, target = sample
            for name, value in _named(inputs, input_names).items():
                columns.setdefault(name, []).append(_array(value))
            if target is not None:
                value = _array(target)
                kind = "label" if value.ndim == 0 and value.dtype.kind in "iu" else "target"
                columns.setdefault(kind, []).append(value)
    except UsageError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UsageError("data_factory", f"{spec} failed: {type(error).__name__}: {error}") from error
    if not columns:
        raise UsageError("data_empty", f"{spec} yielded no samples.")
    try:
        return {name: np.stack(values) for name, values in columns.items()}
    except ValueError as error:
        raise UsageError("data_shape", f"{spec} yielded samples of different shapes: {error}") from error


def is_factory(spec: str) -> bool:
    """Whether ``spec`` reads as ``module:factory`` or ``file.py:factory`` and is not a file."""
    left, colon, name = spec.rpartition(":")
    return bool(colon and left) and name.isidentifier() and not Path(spec).exists()


def import_function(spec: str) -> Any:
    """What ``module:function`` or ``file.py:function`` names. Raises UsageError: ``data_not_found``."""
    left, _, name = spec.rpartition(":")
    if left.endswith(".py"):
        path = Path(left)
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        if not path.is_file() or module_spec is None or module_spec.loader is None:
            raise UsageError("data_not_found", f"No such file: {left}.")
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(left)
        except ModuleNotFoundError as error:
            raise UsageError("data_not_found", f"Cannot import {left!r}: {error}") from error
    if not callable(getattr(module, name, None)):
        raise UsageError("data_not_found", f"{left} has no function {name!r}.")
    return getattr(module, name)


def _named(inputs: Any, names: Sequence[str] | None) -> dict[str, Any]:
    if isinstance(inputs, Mapping):
        return {str(key): value for key, value in inputs.items()}
    values = list(inputs) if isinstance(inputs, tuple | list) else [inputs]
    if names is None:
        names = ["input"] if len(values) == 1 else [f"input{i}" for i in range(len(values))]
    if len(names) != len(values):
        raise UsageError(
            "data_missing_input", f"A sample has {len(values)} inputs, {len(names)} are wanted: {', '.join(names)}."
        )
    return dict(zip(names, values, strict=True))


def _array(value: Any) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
