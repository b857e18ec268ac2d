"""The fused op against the library's ways to do the same; builds, checks, times, writes out/bench/kernels.json.

Each op counts in its fastest layout and form; ratios are of the same round, and their median is told. What the run
favours, and how the floor is found, is written in docs/kernels.md.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "kernels" / "_asl.so"
BLOCKS = 3  # thread counts take turns in so many blocks of rounds


def build_when_stale() -> None:
    """Builds the native library where it is older than its sources; a library named in the environment is taken as is.

    Raises:
        RuntimeError: the build failed.
    """
    if os.environ.get("ASLCONVERT_KERNELS"):
        return
    sources = [ROOT / "CMakeLists.txt", *(path for path in (ROOT / "kernels" / "csrc").rglob("*") if path.is_file())]
    if LIBRARY.exists() and LIBRARY.stat().st_mtime >= max(path.stat().st_mtime for path in sources):
        return
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        print("no compiler or no CMake: what is measured is the slow reference", file=sys.stderr)
        return
    command = [sys.executable, str(ROOT / "kernels" / "build.py")]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise RuntimeError("the kernels do not build; what the compiler said is above")


def keep_memory() -> None:
    """Makes glibc keep freed memory: else it returns large outputs to the system, by chance of what came before, and
    the next call pays for fresh pages, up to twice the op's own time."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        trim_threshold, mmap_threshold, most = -1, -3, 1 << 30
        set_option(trim_threshold, most)
        set_option(mmap_threshold, most)


def measure_case(case: Any, options: argparse.Namespace, generator: Any) -> list[dict[str, Any]]:
    """The rows of one layer: one per thread count and op."""
    import torch
    from ceilings import copying, floors, gemm
    from kernel_peers import OPS, checked_calls, make_data
    from stopwatch import Contest, paired, quartiles

    dtype = getattr(torch, options.dtype)
    data = make_data(case, generator, device=options.device, dtype=dtype)
    calls: dict[Any, Any] = dict(checked_calls(case, data, tf32=options.tf32))
    calls["copy", "", ""] = copying(case, device=options.device, dtype=dtype)
    contests, flops = {}, {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        product, flops[threads] = gemm(device=options.device, dtype=dtype)
        contests[threads] = Contest({**calls, ("gemm", "", ""): product}, options.device)
        contests[threads].trial(lambda key: key[0], min_time=options.min_time)
    for block in range(BLOCKS):
        for threads, contest in contests.items():
            torch.set_num_threads(threads)
            contest.run((options.rounds + block) // BLOCKS)

    rows = []
    for threads, contest in contests.items():
        best = {op: contest.fastest(lambda key: key[0], op) for op in (*OPS, "copy", "gemm")}
        of = {op: contest.samples[key] for op, key in best.items()}
        floor = floors(case, of["copy"], of["gemm"], flops[threads])
        for op in OPS:
            ratio = paired(of["fused"], of[op])
            rows.append(
                {
                    "shape": case.shape,
                    "batch": case.batch,
                    "threads": threads,
                    "dtype": options.dtype,
                    "device": options.device,
                    "op": op,
                    "layout": best[op][1],
                    "ms": statistics.median(of[op]),
                    "ms_quartiles": quartiles(of[op]),
                    "form": best[op][2],
                    "group": case.group,
                    "fused_over": statistics.median(ratio),
                    "fused_over_quartiles": quartiles(ratio),
                    "over_floor": statistics.median(paired(of[op], floor)),
                    "floor_ms": statistics.median(floor),
                    "floor_is": "memory" if statistics.median(of["copy"]) >= statistics.median(floor) else "compute",
                    "copy_gb_s": case.elements() * dtype.itemsize / statistics.median(of["copy"]) / 1e6,
                    "gemm_gflop_s": flops[threads] / statistics.median(of["gemm"]) / 1e6,
                }
            )
    return rows


def summarise(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means and worst cases of the paired ratios.

    The four unprefixed keys are of ResNet's shapes at the least number of threads; other groups and thread counts
    carry a prefix such as `odd_` or `2_threads_`.
    """
    summary: dict[str, float] = {}
    groups = list(dict.fromkeys(row["group"] for row in rows))
    counts = sorted({row["threads"] for row in rows})
    for group in sorted(groups, key=lambda name: name != "resnet"):
        for threads in counts:
            prefix = "" if group == "resnet" else f"{group}_"
            prefix += "" if threads == counts[0] else f"{threads}_threads_"
            chosen = [row for row in rows if row["group"] == group and row["threads"] == threads]
            ratios = {op: [row["fused_over"] for row in chosen if row["op"] == op] for op in {r["op"] for r in chosen}}
            floor = [row["over_floor"] for row in chosen if row["op"] == "fused"]
            mean = {op: statistics.geometric_mean(values) for op, values in ratios.items()}
            summary |= {
                f"{prefix}fused_over_1x1_geomean": mean["conv1x1"],
                f"{prefix}fused_over_1x1_worst": max(ratios["conv1x1"]),
                f"{prefix}fused_over_product_geomean": mean["product"],
                f"{prefix}fused_over_product_worst": max(ratios["product"]),
                f"{prefix}conv3x3_over_fused_geomean": 1 / mean["conv3x3"],
                f"{prefix}depthwise_over_fused_geomean": 1 / mean["depthwise_1x1"],
                f"{prefix}grid_sample_over_fused_geomean": 1 / mean["grid_sample_1x1"],
                f"{prefix}im2col_over_fused_geomean": 1 / mean["im2col"],
                f"{prefix}fused_over_floor_geomean": statistics.geometric_mean(floor),
                f"{prefix}fused_over_floor_worst": max(floor),
            }
    return summary


def describe(rows: list[dict[str, Any]]) -> str:
    """One line of the table per thread count of a layer."""
    lines = []
    for threads in sorted({row["threads"] for row in rows}):
        of = {row["op"]: row for row in rows if row["threads"] == threads}
        fused, bare = of["fused"], of["conv1x1"]
        low, high = bare["fused_over_quartiles"]
        lines.append(
            f"{fused['shape']:>24} {fused['batch']:>5} {threads:>3}  {fused['ms']:8.4f} {fused['layout']:>13}  "
            f"{bare['ms']:8.4f}  {bare['fused_over']:5.2f} ({low:.2f}..{high:.2f}) {of['product']['fused_over']:7.2f}  "
            f"{fused['over_floor']:5.2f} {fused['floor_is']:>7}  "
            + "  ".join(f"{1 / of[op]['fused_over']:7.2f}" for op in list(of)[3:])
        )
    return "\n".join(lines)


HEADER = (
    f"{'shape':>24} batch thr  {'fused ms':>8} {'layout':>13}  {'1x1 ms':>8}  {'fused/1x1 (quartiles)':>18}"
    f"  {'product':>7}  {'fused/floor':>12}  {'3x3':>7}  {'dw+1x1':>7}  {'grid':>7}  {'im2col':>7}  (over fused)"
)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: tuple(int(part) for part in text.split(","))  # noqa: E731  (argparse shows its name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--out", type=Path, default=Path("out/bench/kernels.json"))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--min-time", type=float, default=0.01, help="seconds per op and round")
    parser.add_argument("--shapes", choices=("resnet", "odd", "epilogue", "all"), default="resnet")
    parser.add_argument("--threads", type=numbers, default=(1, 2) if cores > 1 else (1,), help="such as 1,2")
    parser.add_argument("--batches", type=numbers, default=(1, 8), help="such as 1,8")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16", "float64"), default="float32")
    parser.add_argument("--tf32", action="store_true", help="CUDA: float32 products on tensor cores, library and ours")
    parser.add_argument("--seed", type=int, help="of the random inputs; fresh ones without it")
    return parser.parse_args()


def main() -> int:
    """Runs the chosen layers, prints a table, writes the file; returns the exit code."""
    options = parse()
    if options.rounds < BLOCKS:
        print(f"--rounds must be at least {BLOCKS}", file=sys.stderr)
        return 2
    build_when_stale()
    import torch
    from shapes import cases

    from aslconvert.converter.cost.device import device_profile
    from aslconvert.kernels import build_info

    if options.device == "cuda":
        options.threads = (1,)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    keep_memory()
    gc.disable()
    seed = int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed
    generator = torch.Generator().manual_seed(seed)
    build = build_info()
    print(f"torch {torch.__version__}, {build}, seed {seed}\n{HEADER}", flush=True)
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for case in cases(options.shapes, options.batches):
            rows += (measured := measure_case(case, options, generator))
            print(describe(measured), flush=True)
    summary = summarise(rows)
    print("\n".join(f"{name} {value:.3f}" for name, value in summary.items()))
    profile = dataclasses.asdict(device_profile(threads=max(options.threads)))
    if options.device == "cuda":
        profile["device"] = torch.cuda.get_device_name()
    document = {
        "summary": summary,
        "rows": rows,
        "build": build,
        "torch": torch.__version__,
        "profile": profile,
        "seed": seed,
        "rounds": options.rounds,
        "min_time_s": options.min_time,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
