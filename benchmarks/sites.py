"""Single convolutions of every kind beside their rewritten forms: in the library, on our kernels and in ONNX Runtime.

    python benchmarks/sites.py [--kind depthwise]

All forms of a convolution are timed interleaved, at batch 1 on one thread; rows are given per channel. A convolution by
itself flatters no side: neighbours that a network could fuse are missing for all of them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

from aslconvert.converter.cost.latency import measure
from aslconvert.converter.cost.runtimes import Runner, onnx_runner, torch_runner
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.passes.fast import fast_form
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in


def _depthwise(channels: int, size: int, kernel: int, stride: int = 1) -> tuple[nn.Module, tuple[int, ...]]:
    layer = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels)
    return layer, (1, channels, size, size)


def _grouped(channels: int, size: int, groups: int) -> tuple[nn.Module, tuple[int, ...]]:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=groups), (1, channels, size, size)


KINDS = {
    "depthwise": [
        _depthwise(96, 56, 3),
        _depthwise(144, 56, 3, 2),
        _depthwise(576, 14, 3),
        _depthwise(192, 28, 5),
        _depthwise(96, 56, 7),
        _depthwise(384, 14, 7),
    ],
    "grouped": [_grouped(64, 56, 2), _grouped(128, 28, 4), _grouped(512, 14, 8), _grouped(128, 56, 32)],
    "transposed": [
        (nn.ConvTranspose2d(64, 32, 4, 2, 1), (1, 64, 32, 32)),
        (nn.ConvTranspose2d(128, 64, 3, 2, 1, 1), (1, 128, 16, 16)),
    ],
    "other axes": [
        (nn.Conv1d(64, 64, 7, padding=3), (1, 64, 1024)),
        (nn.Conv3d(32, 32, 3, padding=1), (1, 32, 8, 28, 28)),
    ],
}
ROWS_PER_CHANNEL = (1, 2, 3)


def runners(layer: nn.Module, shape: tuple[int, ...], folder: Path) -> dict[str, Runner]:
    """The convolution in both layouts and in ONNX Runtime, and its blocks of one to three rows a channel."""
    x = torch.randn(shape)
    program = torch.export.export(layer.eval(), (x,))
    gm = graph_module(program)
    (site,), _ = find_sites(gm)

    def onnx(name: str, graph: torch.fx.GraphModule) -> Runner:
        path = folder / f"{name}.onnx"
        path.write_bytes(onnx_bytes(reexport(graph, (x,))))
        return onnx_runner(path, (x,), threads=1)

    calls = {
        "conv": torch_runner(gm, (x,)),
        "conv channels_last": torch_runner(gm, (x,), channels_last=True),
        "conv ONNX Runtime": onnx("conv", gm),
    }
    for each in ROWS_PER_CHANNEL:
        converted = replace_sites(gm, {site.name: stand_in(site, each * site.in_channels)})
        calls[f"{each} rows"] = torch_runner(fast_form(converted), (x,))
        calls[f"{each} rows ONNX Runtime"] = onnx(f"rows{each}", lower(converted))
    return calls


def main() -> None:
    """Print the median of each form in milliseconds, and in brackets its fastest round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for kind in options.kind or KINDS:
        print(f"{kind} [ms]")
        for layer, shape in KINDS[kind]:
            with tempfile.TemporaryDirectory() as folder:
                timed = measure(runners(layer, shape, Path(folder)), rounds=options.rounds, min_time=0.01)
            figures = {name: (latency.p50_ms, min(latency.samples)) for name, latency in timed.items()}
            told = "  ".join(f"{name} {middle:.3f} ({least:.3f})" for name, (middle, least) in figures.items())
            print(f"  {layer} on {'x'.join(map(str, shape))}\n    {told}", flush=True)


if __name__ == "__main__":
    main()
