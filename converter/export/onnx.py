"""ONNX form of an exported program, the same bytes for the same program."""

from __future__ import annotations

import re
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aslconvert.converter.errors import AslconvertError, InternalError
from aslconvert.converter.export.decompositions import spared_decompositions
from aslconvert.converter.export.reexport import reexport, reexport_like
from aslconvert.converter.export.translations import kept_translations
from aslconvert.converter.ir.dims import dynamic_shapes, example_of
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.quiet import quiet

OPSET = 20

RECAST = (torch.bfloat16, torch.float64)
"""Types written as float32: opset 20 has no bfloat16 convolution, and ONNX Runtime's CPU none in float64."""

KEPT_METADATA = ("namespace",)
"""Of what torch's exporter notes at each node; the rest names files and lines of the machine it ran on."""


def onnx_bytes(program: ExportedProgram) -> bytes:
    """The ONNX file of a program of standard operators, opset 20, with its dynamic sizes.

    Programs in bfloat16 or float64 become float32, inputs and outputs too (``recast`` tells).
    Raises InternalError("onnx_failed") for a graph that torch's exporter cannot translate.
    """
    try:
        if recast(program) is not None:
            program = _as_float32(program)
        try:
            model = _export(program)
        # Any failure of the exporter: the second attempt is the one that is reported.
        except Exception:  # noqa: BLE001
            # A program that was loaded with sizes such as 4*s does not decompose: torch's reader leaves them where only
            # plain symbols may be. Exported anew it is as good as before it was saved.
            model = _export(reexport_like(graph_module(program), program))
        _strip(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data
    except Exception as error:
        raise InternalError("onnx_failed", f"torch's ONNX exporter failed: {_told(error)}") from error


def recast(program: ExportedProgram) -> str | None:
    """Why the ONNX form computes in another type than the program, or None where it does not."""
    values = [*program.state_dict.values(), *pytree.tree_leaves(example_of(program))]
    found = {value.dtype for value in values if isinstance(value, Tensor)} & set(RECAST)
    if not found:
        return None
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
    return f"computes in float32: ONNX runtimes have no {names} convolutions at opset {OPSET}"


def _export(program: ExportedProgram) -> onnx.ModelProto:
    with quiet(), kept_translations(), spared_decompositions():
        exported = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, verbose=False)
        if exported is None:
            raise RuntimeError("torch gave no ONNX program")
        model: onnx.ModelProto = exported.model_proto
        return model


def _as_float32(program: ExportedProgram) -> ExportedProgram:
    gm = graph_module(program)
    for tensor in (*gm.parameters(), *gm.buffers()):
        if tensor.dtype in RECAST:
            tensor.data = tensor.data.float()
    for node in gm.graph.nodes:
        node.args, node.kwargs = pytree.tree_map(_float32, (node.args, node.kwargs))
    gm.recompile()
    args, kwargs = pytree.tree_map(_float32, example_of(program))
    return reexport(gm, args, dynamic_shapes(program), kwargs=kwargs)


def _float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in RECAST else value
    return torch.float32 if isinstance(value, torch.dtype) and value in RECAST else value


def _strip(model: onnx.ModelProto) -> None:
    graph = model.graph
    for entry in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        kept = [item for item in entry.metadata_props if item.key in KEPT_METADATA]
        kept = sorted((item.key, item.value) for item in kept)
        del entry.metadata_props[:]
        for key, value in kept:
            entry.metadata_props.add(key=key, value=value)


def _told(error: Exception) -> str:
    """The cause in one line: the exporter's own message is a page of advice, in colour."""
    if isinstance(error, AslconvertError):
        return error.message
    _, _, summary = str(error).partition("## Exception summary")
    lines = (summary or str(error)).strip().splitlines()
    return re.sub(r"\x1b\[\d+m", "", lines[0]).strip() if lines else repr(error)
