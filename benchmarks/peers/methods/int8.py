"""Eight bits: a float network quantised statically, a scale a channel, by the project's own export."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from aslconvert.converter.export.int8 import int8_bytes, open_session, run_onnx
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.passes.lower import lower
from peers.context import Context

SAMPLES = 256


def quantised(context: Context, gm: fx.GraphModule) -> bytes:
    """The ONNX file of ``gm`` in int8, of the fixed shapes that latency is measured with.

    Ranges come from whole samples of the calibration split, as fixed shapes leave no room for crops.

    Raises:
        InternalError: ``onnx_failed`` or ``int8_failed``.
    """
    example = context.subject.example
    subset = context.calibrate.take(SAMPLES)
    size = len(example[0])
    batches = [item.inputs for item in subset.batches(size, drop_last=True)]
    return int8_bytes(onnx_bytes(reexport(lower(gm), example)), batches)


def runs(context: Context, model: bytes) -> Callable[..., list[Tensor]]:
    """The file in ONNX Runtime as a function of inputs of any batch, for the judge; it gives all outputs."""
    session = open_session(model)
    session_names = [spec.name for spec in context.subject.specs]
    size = len(context.subject.example[0])

    def run(*inputs: Tensor) -> list[Tensor]:
        parts = [
            run_onnx(session, [x[start : start + size] for x in inputs], session_names)
            for start in range(0, len(inputs[0]), size)
        ]
        return [torch.cat(output) for output in zip(*parts, strict=True)]

    return run
