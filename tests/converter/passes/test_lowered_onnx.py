"""Lowered forms of every kind of site compute the same in ONNX Runtime, at a size that they were not exported with."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.reexport import reexport_like
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in


@pytest.mark.parametrize(
    ("layer", "shape", "other"),
    [
        (nn.Conv1d(4, 6, 5, stride=2, padding=2), (2, 4, 20), (3, 4, 20)),
        (nn.Conv3d(3, 4, 3, padding=1, dilation=(1, 2, 1)), (2, 3, 6, 7, 8), (1, 3, 6, 7, 8)),
        (nn.Conv2d(16, 16, 3, padding=1, groups=8), (2, 16, 9, 9), (1, 16, 12, 7)),
        (nn.Conv2d(6, 6, 5, padding=2, groups=6), (2, 6, 9, 9), (1, 6, 12, 7)),
        (nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1, output_padding=1), (2, 4, 6, 6), (3, 4, 5, 9)),
        (nn.ConvTranspose1d(4, 3, 5, stride=3), (2, 4, 20), (3, 4, 20)),
    ],
)
def test_onnx_runtime_computes_the_lowered_form(
    layer: nn.Module, shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    program = export_model(layer, (torch.randn(shape),))
    gm = graph_module(program)
    (site,), _ = find_sites(gm)
    converted = replace_sites(gm, {site.name: stand_in(site, 2 * site.in_channels)})
    data = onnx_bytes(reexport_like(lower(converted), program))
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for size in (shape, other):
        x = torch.randn(size)
        (given,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(given, converted(x).numpy(), rtol=1e-4, atol=1e-5)
