"""The one door for models: a .pt2 or .onnx file, an architecture by name, or a factory in the user's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from aslconvert.converter.importers.architectures.registry import PREFIX, is_architecture, load_architecture
from aslconvert.converter.importers.onnx.load import load_onnx
from aslconvert.converter.ir.load import is_factory, load_program

ONNX_SUFFIX = ".onnx"


def open_model(spec: str, *, example: tuple[Any, ...] | None = None) -> ExportedProgram:
    """The program that ``spec`` names.

    One of ``model.pt2``, ``model.onnx``, ``arch:NAME``, ``arch:NAME@weights.safetensors``, ``module:factory`` and
    ``file.py:factory``. ``example`` stands in for inputs of a factory or an .onnx file that has none.
    Raises ModelRefused with a stable code.
    """
    if is_architecture(spec):
        return load_architecture(spec)
    if Path(spec).suffix == ONNX_SUFFIX:
        return load_onnx(Path(spec), example=example)
    return load_program(spec, example=example)


def is_file(spec: str) -> bool:
    """Whether ``spec`` names a file, and not an architecture or code."""
    return Path(spec).exists() or (not is_architecture(spec) and not is_factory(spec))


def model_name(spec: str) -> str:
    """A short name for reports: the file's, the architecture's or the factory's."""
    if is_file(spec):
        return Path(spec).stem
    if is_architecture(spec):
        return spec.removeprefix(PREFIX).partition("@")[0].rpartition("/")[2]
    return spec.rpartition(":")[2]
