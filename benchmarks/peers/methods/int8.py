"""Eight bits: a float network quantised statically, a scale a channel, by the project's own export."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from aslconvert.converter.export.int8 import open_session, run_onnx
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.recipes import SECONDS
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.pipeline.quantised import search_recipe
from peers.context import Context

SAMPLES = 256
JUDGED = 64
"""Samples of the validate split that recipes are compared on."""


def quantised(context: Context, gm: fx.GraphModule) -> list[tuple[str, bytes]]:
    """ONNX files of ``gm`` in int8 by the recipe that our conversion would search for, of the fixed shapes that latency
    is measured with: all layers in int8 (""), and some in float (" mixed") where that loses clearly less.

    Ranges come from whole samples of the calibration split, as fixed shapes leave no room for crops.

    Raises:
        InternalError: ``onnx_failed`` or ``int8_failed``.
    """
    example = context.subject.example
    size = len(example[0])
    batches, judged = (
        [item.inputs for item in subset.take(count).batches(size, drop_last=True)]
        for subset, count in ((context.calibrate, SAMPLES), (context.subject.data.split("validate"), JUDGED))
    )
    found = search_recipe(onnx_bytes(reexport(lower(gm), example)), batches, judged, seconds=SECONDS)
    return [("", found.best.data), *([] if found.mixed is None else [(" mixed", found.mixed.data)])]


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
