"""Whole networks, converted with one row a channel, beside the originals in every runtime: how fast the form can get.

    python benchmarks/networks.py [--models arch:resnet-18 ...] [--size 224] [--threads 1] [--rows 1.0]

The rows are stand-ins that nothing was fitted with: what is measured is speed alone. Everything is timed interleaved at
batch 1. In each precision a network counts in its fastest form or runtime: float32, 16-bit integers, and 8 bits, to
which ONNX Runtime's quantiser brings original and converted network alike. Convolutions of fewer than 16 channels are
kept. Prints a table and writes out/bench/networks.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from aslconvert.converter.cost.latency import Latency, measure, ratio
from aslconvert.converter.cost.runtimes import (
    compile_runner,
    onnx_runner,
    openvino_runner,
    torch_runner,
)
from aslconvert.converter.errors import AslconvertError
from aslconvert.converter.export.int8 import int8_bytes
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.importers.model import model_name, open_model
from aslconvert.converter.ir.graph import copy_graph, find_sites, graph_module
from aslconvert.converter.passes.fast import fast_form, int16_form, packed_form
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.prepare import prepare
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in

Build = Callable[[], Callable[[], Any]]
LEAST_CHANNELS = 16
SIDES = [(side, precision) for side in ("original", "converted") for precision in ("float32", "int16", "int8")]
MODELS = ("arch:resnet-18", "arch:resnet-50")


def converted(gm: fx.GraphModule, rows_per_channel: float, *, seed: int) -> tuple[fx.GraphModule, int, int]:
    """``gm`` with stand-ins at all dense sites of enough channels, how many these are, and how many are kept."""
    sites, refused = find_sites(gm)
    chosen = [site for site in sites if site.in_channels >= LEAST_CHANNELS and site.row_groups == 1]
    blocks = {
        site.name: stand_in(site, max(1, round(site.in_channels * rows_per_channel)), seed=seed + index)
        for index, site in enumerate(chosen)
    }
    return replace_sites(gm, blocks), len(chosen), len(sites) - len(chosen) + len(refused)


def runners(original: fx.GraphModule, gm: fx.GraphModule, x: Tensor, folder: Path, *, threads: int) -> dict[str, Build]:
    """What is timed, by "original" or "converted" and the runtime or form, each still to be built."""
    inputs = (x,)

    def file(name: str, form: fx.GraphModule) -> Path:
        path = folder / f"{name}.onnx"
        if not path.exists():
            path.write_bytes(onnx_bytes(reexport(form, inputs)))
        return path

    def int8(name: str, form: fx.GraphModule) -> Path:
        path = folder / f"{name}.int8.onnx"
        if not path.exists():
            path.write_bytes(int8_bytes(file(name, form).read_bytes(), [inputs]))
        return path

    lowered, fast = lower(gm), fast_form(gm)
    return {
        "original torch": lambda: torch_runner(original, inputs),
        "original torch_channels_last": lambda: torch_runner(original, inputs, channels_last=True),
        "original compile": lambda: compile_runner(copy_graph(original), inputs),
        "original compile, channels_last": lambda: compile_runner(copy_graph(original), inputs, channels_last=True),
        "original onnxruntime": lambda: onnx_runner(file("original", original), inputs, threads=threads),
        "original openvino": lambda: openvino_runner(file("original", original), inputs, threads=threads),
        "original int8 onnxruntime": lambda: onnx_runner(int8("original", original), inputs, threads=threads),
        "original int8 openvino": lambda: openvino_runner(int8("original", original), inputs, threads=threads),
        "converted torch": lambda: torch_runner(fast, inputs),
        "converted torch, packed in channels_last": lambda: torch_runner(packed_form(gm), inputs),
        "converted compile": lambda: compile_runner(copy_graph(fast), inputs),
        "converted compile, packed in channels_last": lambda: compile_runner(packed_form(gm), inputs),
        "converted onnxruntime": lambda: onnx_runner(file("converted", lowered), inputs, threads=threads),
        "converted openvino": lambda: openvino_runner(file("converted", lowered), inputs, threads=threads),
        "converted int16 torch": lambda: torch_runner(int16_form(gm), inputs),
        "converted int8 onnxruntime": lambda: onnx_runner(int8("converted", lowered), inputs, threads=threads),
        "converted int8 openvino": lambda: openvino_runner(int8("converted", lowered), inputs, threads=threads),
    }


def compare(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """One network: latencies by runner, the fastest of each side, and their ratio with its quartiles."""
    gm = fold_batch_norm(prepare(graph_module(open_model(model))))
    x = torch.randn(1, 3, options.size, options.size, generator=torch.Generator().manual_seed(options.seed))
    changed, count, kept = converted(gm, options.rows, seed=options.seed)
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        ready = {}
        for name, build in runners(gm, changed, x, Path(folder), threads=options.threads).items():
            try:
                ready[name] = build()
            except AslconvertError as error:
                left_out[name] = error.message
        timed = measure(ready, rounds=options.rounds, seed=options.seed)

    best = {key: value for key, value in ((key, _fastest(timed, *key)) for key in SIDES) if value is not None}
    (before, slow), (after, quick) = best["original", "float32"], best["converted", "float32"]
    ratios = sorted(a / b for a, b in zip(slow.samples, quick.samples, strict=True))
    pairs = {
        f"{side} {precision} over the original in {base}": _ratio(best["original", base][1], latency)
        for (side, precision), (_, latency) in best.items()
        for base in ("float32", "int8")
        if ("original", base) in best and (side, precision) != ("original", base)
    }
    row = {
        "ratios": pairs,
        "model": model_name(model),
        "sites_converted": count,
        "sites_kept": kept,
        "original": before,
        "converted": after,
        "speedup": slow.p50_ms / quick.p50_ms,
        "speedup_quartiles": [ratios[len(ratios) // 4], ratios[-len(ratios) // 4]],
        "latency_ms": {name: latency.p50_ms for name, latency in timed.items()},
        "left_out": left_out,
    }
    low, high = row["speedup_quartiles"]
    print(f"{row['model']}: {row['speedup']:.2f}x (quartiles {low:.2f} .. {high:.2f}), {count} converted, {kept} kept")
    for name, latency in sorted(timed.items(), key=lambda entry: entry[1].p50_ms):
        print(f"  {name:44} {latency.p50_ms:9.2f} ms  p95 {latency.p95_ms:9.2f}")
    for name, why in left_out.items():
        print(f"  {name:44} left out: {why}")
    for name, (value, least, most) in pairs.items():
        print(f"  {name:60} {value:.2f}x ({least:.2f} .. {most:.2f})")
    return row


def _fastest(timed: Mapping[str, Latency], side: str, precision: str) -> tuple[str, Latency] | None:
    """The fastest way to run one side in one precision."""
    found = [
        (name, latency)
        for name, latency in timed.items()
        if name.startswith(side) and next((p for p in ("int8", "int16") if f" {p} " in name), "float32") == precision
    ]
    return min(found, key=lambda entry: entry[1].p50_ms) if found else None


def _ratio(slow: Latency, quick: Latency) -> tuple[float, float, float]:
    """Speed-up with its 95 % interval."""
    found = ratio(slow, quick)
    return found.value, found.ci_low, found.ci_high


def main() -> None:
    """Measures all networks and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="anything that aslconvert takes as MODEL")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=float, default=1.0, help="rows a channel")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/bench/networks.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [compare(model, options) for model in options.models]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    profile = {"torch": torch.__version__, "threads": options.threads, "batch": 1, "size": options.size}
    profile |= {"rows": options.rows, "rounds": options.rounds}
    options.out.write_text(json.dumps({"profile": {**profile, "seed": options.seed}, "rows": rows}, indent=2) + "\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
