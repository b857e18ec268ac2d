"""One site by itself, kept or as a candidate, to be timed: with arbitrary weights, and a ReLU where one follows it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.cost.runtimes import FILE_RUNNERS, Runner
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.ir.graph import CONV_BY_AXES, aten
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.parameters import put_buffer, put_parameter
from aslconvert.converter.passes.replace_sites import join
from aslconvert.converter.search.candidates import stand_in


@dataclass(frozen=True)
class FileRunner:
    """Runs graphs of standard operators as ``.onnx`` files in one of the ONNX runtimes."""

    runtime: str
    threads: int

    def __call__(self, gm: fx.GraphModule, x: Tensor) -> Runner:
        """Raises InfrastructureError where the runtime is missing or refuses the file."""
        with tempfile.TemporaryDirectory(prefix="aslconvert-") as folder:
            path = Path(folder) / "site.onnx"
            path.write_bytes(onnx_bytes(reexport(gm, (x,))))
            return FILE_RUNNERS[self.runtime](path, (x,), threads=self.threads)


def kept_alone(site: ConvSite, *, relu: bool) -> fx.GraphModule:
    """The convolution as it is."""
    return fx.symbolic_trace(_Kept(site, relu=relu))


def rows_alone(site: ConvSite, x: Tensor, rows: int, *, relu: bool, seed: int) -> fx.GraphModule:
    """A stand-in of ``rows`` rows, as ``replace_sites`` would write it for inputs like ``x``."""
    block = stand_in(site, rows, seed=seed)
    one = [1] * len(site.geometry.kernel)
    root, graph = nn.Module(), fx.Graph()
    put_parameter(root, "site.shift", block.shift)
    put_buffer(root, "site.source", block.source)
    put_parameter(root, "site.weight", block.weight.to(site.dtype).reshape(*block.weight.shape, *one))
    put_parameter(root, "site.bias", torch.zeros(site.block_outputs, dtype=site.dtype))
    image = graph.placeholder("x")
    shift, source, weight, bias = (graph.get_attr(f"site.{name}") for name in ("shift", "source", "weight", "bias"))
    call = (image, shift, source, list(site.gather.stride), list(site.gather.delta))
    shifted = graph.call_function(torch.ops.asl.active_shift.default, call)
    mixed = graph.call_function(
        CONV_BY_AXES[len(one)], (shifted, weight, bias, one, [0] * len(one), one, site.row_groups)
    )
    out = (x.shape[0], site.block_outputs, *site.gather.output_size(tuple(x.shape[2:])))
    for node, shape in ((image, tuple(x.shape)), (shifted, (out[0], rows, *out[2:])), (mixed, out)):
        node.meta.update(shape=shape, dtype=site.dtype)
    last = join(graph, mixed, site)
    graph.output(graph.call_function(aten.relu.default, (last,)) if relu else last)
    return fx.GraphModule(root, graph)


class _Kept(nn.Module):
    def __init__(self, site: ConvSite, *, relu: bool) -> None:
        super().__init__()
        self._site, self._relu = site, relu
        channels = (site.out_channels, site.in_channels // site.groups)
        if site.transposed:
            channels = (site.in_channels, site.out_channels // site.groups)
        weight = torch.randn(*channels, *site.geometry.kernel, dtype=site.dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(site.out_channels, dtype=site.dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        site, geometry = self._site, self._site.geometry
        axes = len(geometry.kernel)
        if site.transposed:
            functional = nn.functional
            convolve = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[axes - 1]
            before, last = geometry.padding_before, (site.output_padding, site.groups, geometry.dilation)
            y = convolve(x, self.weight, self.bias, geometry.stride, before, *last)
        else:
            padding = list(geometry.padding_before)
            if geometry.padding_before != geometry.padding_after:
                pairs = zip(geometry.padding_before[::-1], geometry.padding_after[::-1], strict=True)
                x = nn.functional.pad(x, [size for pair in pairs for size in pair])
                padding = [0] * axes
            y = CONV_BY_AXES[axes](x, self.weight, self.bias, geometry.stride, padding, geometry.dilation, site.groups)
        return torch.relu(y) if self._relu else y
