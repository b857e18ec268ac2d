"""An ONNX file as an exported program, with the sizes dynamic that the file leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from aslconvert.converter.errors import ModelRefused

# Importing a family registers its operators.
from aslconvert.converter.importers.onnx import (  # noqa: F401
    activations,
    arithmetic,
    convolution,
    indexing,
    normalisation,
    pooling,
    products,
    resize,
    shapes,
)
from aslconvert.converter.importers.onnx.file import MAX_ELEMENTS, Graph, extent, read_graph
from aslconvert.converter.importers.onnx.module import OnnxModule, build
from aslconvert.converter.importers.onnx.refusals import bad_graph, too_large
from aslconvert.converter.ir.dims import export_with

EXAMPLE_BATCH, EXAMPLE_CHANNELS, EXAMPLE_SIDE = 2, 3, 224
"""What open sizes are in the example inputs: the batch, the second axis, and everything after."""


def load_onnx(path: Path, *, example: tuple[Any, ...] | None = None) -> ExportedProgram:
    """The program of the ONNX file at ``path`` (opset 13 to 20); nothing of the file is executed as code.

    Sizes that the file leaves open are dynamic as far as torch can keep them. ``example`` stands in for inputs of
    random numbers.

    Raises:
        ModelRefused: see `file.read_graph` for files, ``unsupported_operator``, ``unsupported_attribute``,
            ``unsupported_type``, ``dynamic_value``, ``bad_graph`` and ``too_large`` for nodes, named with their
            operator; ``export_failed`` where torch.export gives up.
    """
    graph = read_graph(path)
    if not graph.inputs:
        raise bad_graph(f"'{path}'", "it has no input.")
    inputs = tuple(example) if example is not None else example_inputs(graph)
    _check_example(graph, inputs)
    module = build(graph).eval()
    module.settle(inputs)
    return _export(module, graph, inputs, path)


def example_inputs(graph: Graph) -> tuple[Tensor, ...]:
    """Random inputs of the declared types; open sizes are EXAMPLE_BATCH, EXAMPLE_CHANNELS and EXAMPLE_SIDE.

    Raises ModelRefused (``too_large``).
    """
    generator = torch.Generator().manual_seed(0)
    sizes: dict[str, int] = {}
    tensors = []
    for entry in graph.inputs:
        shape = [_size(size, axis, sizes) for axis, size in enumerate(entry.shape)]
        if extent(shape) > MAX_ELEMENTS:
            raise too_large(f"input '{entry.name}'", f"with its open sizes filled in it has the shape {shape}.")
        if entry.dtype.is_floating_point:
            tensors.append(torch.rand(shape, generator=generator).to(entry.dtype))
        else:
            tensors.append(torch.zeros(shape, dtype=entry.dtype))
    return tuple(tensors)


def _size(size: int | str | None, axis: int, sizes: dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    default = EXAMPLE_BATCH if axis == 0 else EXAMPLE_CHANNELS if axis == 1 else EXAMPLE_SIDE
    return default if size is None else sizes.setdefault(size, default)


def _check_example(graph: Graph, inputs: tuple[Any, ...]) -> None:
    for entry, tensor in zip(graph.inputs, inputs, strict=False):
        fits = isinstance(tensor, Tensor) and tensor.dim() == len(entry.shape) and tensor.dtype == entry.dtype
        if not fits or any(isinstance(d, int) and d != n for d, n in zip(entry.shape, tensor.shape, strict=True)):
            raise ModelRefused("no_example", f"The example does not fit input '{entry.name}' of shape {entry.shape}.")
    if len(inputs) != len(graph.inputs):
        raise ModelRefused("no_example", f"{len(graph.inputs)} example inputs are needed, {len(inputs)} are given.")


def _export(module: OnnxModule, graph: Graph, inputs: tuple[Tensor, ...], path: Path) -> ExportedProgram:
    for declared in _declarations(graph):
        program = export_with(module, inputs, {}, declared)
        if program is not None:
            return program
    raise ModelRefused("export_failed", f"torch.export could not trace '{path}' at fixed sizes.")


def _declarations(graph: Graph) -> list[tuple[dict[int, Any], ...] | None]:
    """Every open size, then the batch alone, then fixed sizes.

    Torch finds by itself which sizes are equal or multiples. Named dims refuse bounds that torch derives from its
    kernels' 32-bit indices, such as a batch of at most 656.
    """
    open_axes = [[a for a, size in enumerate(entry.shape) if not isinstance(size, int)] for entry in graph.inputs]
    if not any(open_axes):
        return [None]
    everything = tuple(dict.fromkeys(axes, Dim.AUTO) for axes in open_axes)
    batch = tuple({axis: Dim.AUTO for axis in axes if axis == 0} for axes in open_axes)
    return [everything, batch, None] if everything != batch else [everything, None]
