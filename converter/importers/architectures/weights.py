"""Strict loading of safetensors into a network: every tensor must have its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aslconvert.converter.errors import ModelRefused

SHOWN = 5
UNUSED = "num_batches_tracked"
"""Counters of batch norms, which inference never reads; files come with and without them."""


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill ``model`` from the safetensors file at ``path``.

    A tensor that goes by several names in the network may come under any of them.

    Raises:
        ModelRefused: ``weights_not_found``, ``weights_unreadable``, or ``weights_mismatch`` that names what is missing,
            what is left over and what has another shape.
    """
    if not path.is_file():
        raise ModelRefused("weights_not_found", f"There is no file '{path}'.")
    try:
        given = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelRefused(
            "weights_unreadable", f"'{path}' is no safetensors file: {error}", hint="Save with safetensors.torch."
        ) from error
    wanted = model.state_dict()
    _check(wanted, given, path)
    model.load_state_dict(given, strict=False)


def _check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    filled = {wanted[name].data_ptr() for name in given if name in wanted and wanted[name].numel()}
    missing = [name for name, tensor in wanted.items() if name not in given and tensor.data_ptr() not in filled]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    problems = [
        _told("missing", (name for name in missing if not name.endswith(UNUSED))),
        _told("unexpected", (name for name in unexpected if not name.endswith(UNUSED))),
        _told("of another shape", shapes),
    ]
    if any(problems):
        raise ModelRefused(
            "weights_mismatch",
            f"'{path}' does not fit the architecture: {'; '.join(filter(None, problems))}.",
            hint="The names must be those of the network's state_dict.",
        )


def _told(what: str, names: Iterable[str]) -> str:
    found = list(names)
    rest = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} {what} ({', '.join(found[:SHOWN])}{rest})" if found else ""
