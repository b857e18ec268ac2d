"""Torch's ONNX exporter traces every program anew to take operators apart: single lowered sites are spared that."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

MODULE = "torch.onnx._internal.exporter._fx_passes"
NAME = "decompose_with_registry"

aten = torch.ops.aten
WHOLE = frozenset(
    (
        *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
        *(aten.index_select.default, aten.relu.default, aten.add.Tensor),
    )
)
"""Operators that the trace leaves as they are, so that the file is the same without it."""


@contextlib.contextmanager
def spared_decompositions() -> Iterator[None]:
    """Exports inside the block go without the trace where there is nothing but ``WHOLE`` operators.

    A site by itself has no others, and the trace takes four times as long as the rest of its export. It is a private
    part of torch: where another version has no such function, exports go on as torch does them.
    """
    module: Any = None
    with contextlib.suppress(ImportError):
        module = importlib.import_module(MODULE)
    own = getattr(module, NAME, None)
    if own is None:
        yield
        return
    setattr(module, NAME, functools.partial(_spared, own))
    try:
        yield
    finally:
        setattr(module, NAME, own)


def _spared(own: Callable[..., Any], program: ExportedProgram, registry: Any) -> ExportedProgram:
    if not is_plain(program, registry):
        given: ExportedProgram = own(program, registry)
        return given
    # The exporter goes on to change the graph. Copied nodes are named anew where Python has a function of their name.
    twin = copy.copy(program)
    twin._graph_module = copy.deepcopy(program.graph_module)
    for node, copied in zip(program.graph.nodes, twin.graph.nodes, strict=True):
        copied.name = node.name
    return twin


def is_plain(program: ExportedProgram, registry: Any) -> bool:
    """Whether all calls are of ``WHOLE`` operators, which ``registry`` translates.

    Programs with dynamic sizes are not: traced anew, their sizes are written in simpler terms.
    """
    if program.range_constraints or any(isinstance(child, fx.GraphModule) for child in program.graph_module.children()):
        return False
    for node in program.graph.nodes:
        target = node.target
        if node.op == "call_function" and not (target in WHOLE and registry.is_registered(target)):
            return False
    return True
