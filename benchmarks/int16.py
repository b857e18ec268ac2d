"""The fused op in 16-bit integers beside itself in float32 and the library's 1x1 convolution: time and rounding.

    python benchmarks/int16.py [--threads 1] [--rounds 15]

Layers of half-pixel shifts with one to four rows a channel, and plain 1x1 convolutions (rows that do not move). All
calls of a layer are timed interleaved; float32 counts in its faster layout. The error is the relative L2 distance to
the float32 result. Prints a table and writes out/bench/int16.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from aslconvert.converter.cost.latency import measure, ratio
from aslconvert.kernels import build_info, has_int16
from aslconvert.kernels.reference import pack_int16

OPS = torch.ops.asl
SAME = ([1, 1], [-1, -1])


@dataclass(frozen=True)
class Layer:
    """``rows`` shifted rows of ``channels`` into ``outputs``; ``moved`` False: a plain 1x1 convolution."""

    channels: int
    rows: int
    outputs: int
    size: int
    moved: bool = True


SHIFTED = [
    *(Layer(64, 64 * k, 64, 64) for k in (1, 2, 3, 4)),
    *(Layer(64, 64 * k, 64, 56) for k in (1, 2)),
    *(Layer(128, 128 * k, 128, 28) for k in (1, 2)),
    *(Layer(256, 256 * k, 256, 14) for k in (1, 2)),
    *(Layer(512, 512 * k, 512, 7) for k in (1, 2)),
    Layer(24, 24, 24, 56),
]
PLAIN = [
    Layer(c, c, o, s, moved=False)
    for c, o, s in (
        (64, 256, 56), (256, 64, 56), (128, 512, 28), (512, 128, 28), (256, 1024, 14), (1024, 256, 14), (512, 2048, 7),
        (2048, 512, 7), (24, 144, 56),
    )
]  # fmt: skip


def calls(layer: Layer, seed: int) -> dict[str, Callable[[], Tensor]]:
    """Every way to compute the layer, ReLU included."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, layer.channels, layer.size, layer.size, generator=generator).relu()
    shift = torch.randint(-2, 3, (layer.rows, 2), generator=generator) / 2 * layer.moved
    source = torch.arange(layer.rows) * layer.channels // layer.rows
    weight = torch.randn(layer.outputs, layer.rows, generator=generator) / layer.rows**0.5
    bias = torch.randn(layer.outputs, generator=generator)
    whole, packed = pack_int16(weight), OPS.pack_pointwise(weight)
    last = x.contiguous(memory_format=torch.channels_last)
    mixed = x[:, source].contiguous()
    dense = weight[:, :, None, None]
    mixed_last, dense_last = (t.contiguous(memory_format=torch.channels_last) for t in (mixed, dense))
    tail = (bias, *SAME, True)
    return {
        "int16": lambda: OPS.shift_pointwise_int16(x, shift, source, *whole, *tail),
        "float32 contiguous": lambda: OPS.shift_pointwise(x, shift, source, weight, *tail),
        "float32 channels_last": lambda: OPS.shift_pointwise_packed(last, shift, source, packed, len(weight), *tail),
        "conv1x1 contiguous": lambda: torch.conv2d(mixed, dense, bias).relu_(),
        "conv1x1 channels_last": lambda: torch.conv2d(mixed_last, dense_last, bias).relu_(),
    }


def compare(layer: Layer, *, rounds: int, seed: int) -> dict[str, object]:
    """One layer: milliseconds by way, what int16 gains over the faster float32 and over the convolution, its error."""
    ways = calls(layer, seed)
    with torch.inference_mode():
        exact, rounded = ways["float32 contiguous"](), ways["int16"]()
        timed = measure(ways, rounds=rounds, seed=seed)

    def gain(prefix: str) -> tuple[float, float, float]:
        best = min((t for name, t in timed.items() if name.startswith(prefix)), key=lambda t: t.p50_ms)
        found = ratio(best, timed["int16"])
        return found.value, found.ci_low, found.ci_high

    row: dict[str, object] = {
        **asdict(layer),
        "ms": {name: t.p50_ms for name, t in timed.items()},
        "over_float32": gain("float32"),
        "over_conv1x1": gain("conv1x1"),
        "error": float((rounded - exact).norm() / exact.norm()),
    }
    name = f"{layer.channels:4} x {layer.rows:4} -> {layer.outputs:4} @ {layer.size:3}" + (
        "" if layer.moved else " 1x1"
    )
    gains = " ".join(f"{v:5.2f} ({a:.2f} .. {b:.2f})" for v, a, b in (gain("float32"), gain("conv1x1")))
    print(f"{name:32} {timed['int16'].p50_ms:8.3f} ms  {gains}  {row['error']:.1e}")
    return row


def main() -> None:
    """Measures all layers and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/bench/int16.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not has_int16():
        print("No kernel has 16 bits on this processor: both run in float32.")
    print(f"{'layer':32} {'int16':>11}  over float32         over the bare 1x1    error")
    rows = [compare(layer, rounds=options.rounds, seed=options.seed) for layer in (*SHIFTED, *PLAIN)]
    for name, of in (("shifted", SHIFTED), ("plain 1x1", PLAIN)):
        mine = rows[: len(SHIFTED)] if of is SHIFTED else rows[len(SHIFTED) :]
        logs = [torch.tensor(float(row[key][0])).log() for key in ("over_float32", "over_conv1x1") for row in mine]  # type: ignore[index]
        half = len(logs) // 2
        means = [float(torch.stack(part).mean().exp()) for part in (logs[:half], logs[half:])]
        print(f"{name}: geometric mean {means[0]:.2f} over float32, {means[1]:.2f} over the bare 1x1 convolution")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    profile = {"torch": torch.__version__, "threads": options.threads, "seed": options.seed, **build_info()}
    options.out.write_text(json.dumps({"profile": profile, "rows": rows}, indent=2) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
