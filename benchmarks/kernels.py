"""The fused op against the library's convolutions on ResNet shapes; writes out/bench/kernels.json.

What it favours: shapes whose K equals C, shifts on the half-pixel grid within one pixel (as the fit chooses them), and
one process that repeats one layer, so that weights are warm in cache for every op alike. The 1x1 has no bias and no
ReLU, and neither has the fused op here. Each library op counts in its faster layout, the fused op as well. All are
called the same way, through torch.ops, and write into memory that the process keeps, as a model's allocator would.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from aslconvert.kernels import build_info

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))
BATCHES = (1, 8)
OPS = ("fused", "conv1x1", "conv3x3", "depthwise_1x1")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Call = Callable[[], Tensor]
FUSED, CONV = torch.ops.asl.shift_pointwise.default, torch.ops.aten.conv2d.default


def make_calls(channels: int, size: int, batch: int, generator: torch.Generator) -> dict[tuple[str, str], Call]:
    """The four ops in both layouts, as (op, layout) to call; checked against float64 before anything is timed."""
    image = torch.randn(batch, channels, size, size, generator=generator)
    shift = torch.randint(-2, 3, (channels, 2), generator=generator) / 2
    scale = channels**-0.5
    pointwise = torch.randn(channels, channels, generator=generator) * scale
    dense = torch.randn(channels, channels, 3, 3, generator=generator) * scale / 3
    depthwise = torch.randn(channels, 1, 3, 3, generator=generator) / 3
    expected = {
        "fused": torch.einsum("ok,nkhw->nohw", pointwise.double(), bilinear(image.double(), shift.double())),
        "conv1x1": functional.conv2d(image.double(), pointwise.double()[:, :, None, None]),
        "conv3x3": functional.conv2d(image.double(), dense.double(), padding=1),
        "depthwise_1x1": functional.conv2d(
            functional.conv2d(image.double(), depthwise.double(), padding=1, groups=channels),
            pointwise.double()[:, :, None, None],
        ),
    }
    calls: dict[tuple[str, str], Call] = {}
    for name, layout in LAYOUTS.items():
        x = image.contiguous(memory_format=layout)
        one = pointwise[:, :, None, None].contiguous(memory_format=layout)
        three = dense.contiguous(memory_format=layout)
        single = depthwise.contiguous(memory_format=layout)

        mix = pointwise if name == "contiguous" else pointwise.t().contiguous().t()

        def run_depthwise(x: Tensor = x, single: Tensor = single, one: Tensor = one) -> Tensor:
            y: Tensor = CONV(CONV(x, single, None, [1, 1], [1, 1], [1, 1], channels), one)
            return y

        calls["fused", name] = partial(FUSED, x, shift, None, mix, None, [1, 1], [-1, -1], False)
        calls["conv1x1", name] = partial(CONV, x, one)
        calls["conv3x3", name] = partial(CONV, x, three, None, [1, 1], [1, 1])
        calls["depthwise_1x1", name] = run_depthwise
    for (op, layout_name), call in calls.items():
        error = (call().double() - expected[op]).abs().max() / expected[op].abs().max()
        if error > 1e-5:
            raise RuntimeError(f"{op} in {layout_name} is wrong by {error:.2e} at {channels}@{size}; nothing was timed")
    return calls


def bilinear(image: Tensor, shift: Tensor) -> Tensor:
    """The shifted image by grid_sample, so that the check shares no code with the kernels."""
    batch, channels, height, width = image.shape
    y = torch.arange(height).double()[None, :, None] + shift[:, 0, None, None]
    x = torch.arange(width).double()[None, None, :] + shift[:, 1, None, None]
    y = ((2 * y + 1) / height - 1).expand(-1, height, width)
    x = ((2 * x + 1) / width - 1).expand(-1, height, width)
    planes = image.transpose(0, 1).reshape(channels, batch, height, width)
    return functional.grid_sample(planes, torch.stack([x, y], -1), align_corners=False).transpose(0, 1)


def interleaved_medians(
    calls: dict[tuple[str, str], Call], *, rounds: int, min_time: float
) -> dict[tuple[str, str], float]:
    """Milliseconds per call: each round times every op once, so that a noisy moment meets all of them."""
    repeats = {}
    for key, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[key] = max(1, math.ceil(min_time / max(time.perf_counter() - start, 1e-7)))
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[key]):
                call()
            samples[key].append((time.perf_counter() - start) / repeats[key] * 1e3)
    return {key: statistics.median(values) for key, values in samples.items()}


def keep_memory() -> None:
    """Makes glibc keep freed memory: else it returns large outputs to the system, by chance of what came before, and
    the next call pays for fresh pages, up to twice the op's own time."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        trim_threshold, mmap_threshold, most = -1, -3, 1 << 30
        set_option(trim_threshold, most)
        set_option(mmap_threshold, most)


def summarise(rows: list[dict[str, object]]) -> dict[str, float]:
    """Geometric means and the worst case of the ratios, from the rows of one run."""
    cells: dict[tuple[object, object], dict[str, float]] = {}
    for row in rows:
        cells.setdefault((row["shape"], row["batch"]), {})[str(row["op"])] = float(str(row["ms"]))

    def ratios(above: str, below: str) -> list[float]:
        return [cell[above] / cell[below] for cell in cells.values()]

    return {
        "fused_over_1x1_geomean": statistics.geometric_mean(ratios("fused", "conv1x1")),
        "fused_over_1x1_worst": max(ratios("fused", "conv1x1")),
        "conv3x3_over_fused_geomean": statistics.geometric_mean(ratios("conv3x3", "fused")),
        "depthwise_over_fused_geomean": statistics.geometric_mean(ratios("depthwise_1x1", "fused")),
    }


def main() -> int:
    """Runs all shapes on one core, prints a table, writes the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench/kernels.json"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--min-time", type=float, default=0.01, help="seconds per op and round")
    options = parser.parse_args()

    torch.set_num_threads(1)
    keep_memory()
    gc.disable()
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, object]] = []
    print(
        f"{'shape':>8} {'batch':>5}  "
        + "  ".join(f"{op:>24}" for op in ("fused", "conv1x1", "conv3x3", "depthwise_1x1"))
    )
    with torch.inference_mode():
        for channels, size in SHAPES:
            for batch in BATCHES:
                calls = make_calls(channels, size, batch, generator)
                times = interleaved_medians(calls, rounds=options.rounds, min_time=options.min_time)
                line = []
                for op in OPS:
                    layout = min(LAYOUTS, key=lambda name: times[op, name])
                    rows.append(
                        {
                            "shape": f"{channels}@{size}",
                            "batch": batch,
                            "threads": 1,
                            "dtype": "float32",
                            "device": "cpu",
                            "op": op,
                            "layout": layout,
                            "ms": times[op, layout],
                        }
                    )
                    line.append(f"{times[op, layout]:9.3f} {layout:>14}")
                print(f"{channels:>5}@{size:<2} {batch:>5}  " + "  ".join(line), flush=True)
    summary = summarise(rows)
    print("  ".join(f"{name} {value:.3f}" for name, value in summary.items()))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    document = {"summary": summary, "rows": rows, "build": build_info(), "torch": torch.__version__}
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
