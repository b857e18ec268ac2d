"""Builds, checks and times the CUDA kernels on a GPU machine with one command; writes out/bench/gpu.json.

What it favours: shapes whose K equals C, random shifts within two pixels, and calls that follow one another without a
gap (they are captured into CUDA graphs), over more memory than the second-level cache holds. Each library op counts in
its faster layout. Nothing is fetched: where there is no nvcc or no CMake, a library that was built elsewhere is used.
Exit codes: 0 done, 1 a check failed, 3 no GPU, 4 no library.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "gpu"
SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))
BATCH = 64
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
TESTS = ("device", "pointwise_device", "library")
NO_GPU, NO_LIBRARY = 3, 4
CALLS = 10  # in one graph
SHOWN = 60  # lines of a check's output
Call = Callable[[int], object]


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit, on the path or where toolkits are installed."""
    places = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    found = [shutil.which(name), *(shutil.which(name, path=f"{place}/bin") for place in places if place)]
    return next((path for path in found if path), None)


def find_library(carried: Path) -> Path | None:
    """Builds for this GPU where nvcc and CMake are there; else the library that was carried here, or None."""
    cmake, nvcc = shutil.which("cmake"), find_tool("nvcc")
    if cmake and nvcc and shutil.which("c++"):
        major, minor = torch.cuda.get_device_capability()
        configure = [cmake, "-S", str(ROOT), "-B", str(FOLDER), f"-DCMAKE_CUDA_COMPILER={nvcc}"]
        configure += [f"-DASL_CUDA_ARCHITECTURES={major}{minor}-real", "-DASL_REQUIRE_NATIVE=ON"]
        configure += [f"-DPython_EXECUTABLE={sys.executable}"]
        if all(
            subprocess.run(command, check=False).returncode == 0
            for command in (configure, [cmake, "--build", str(FOLDER), "--parallel"])
        ):
            return FOLDER / "_asl.so"
        print("the build failed; looking for a library that was built elsewhere")
    return next((path for path in (carried, ROOT / "kernels" / "_asl.so") if path.exists()), None)


def environment(library: Path) -> dict[str, str]:
    """Variables under which the kernels room is imported from the sources, with this library."""
    tree = FOLDER / "tree"
    (tree / "aslconvert").mkdir(parents=True, exist_ok=True)
    link = tree / "aslconvert" / "kernels"
    if not link.exists():
        link.symlink_to(ROOT / "kernels")
    path = os.pathsep.join(filter(None, [str(tree), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "ASLCONVERT_KERNELS": str(library)}


def run_checks(variables: dict[str, str], folder: Path) -> dict[str, str]:
    """Tests and sanitizers, each in a process of its own: its verdict by name. All they said is kept in the folder."""
    script = str(ROOT / "tests" / "kernels" / "cuda" / "device_checks.py")
    commands = {"device checks": ([sys.executable, script], variables)}
    if all(importlib.util.find_spec(name) for name in ("pytest", "pytest_timeout", "hypothesis")):
        tests = [str(ROOT / "tests" / "kernels" / f"test_cuda_{name}.py") for name in TESTS]
        commands["tests"] = ([sys.executable, "-X", "faulthandler", "-m", "pytest", "-q", *tests], variables)
    sanitizer = find_tool("compute-sanitizer")
    # Every tensor is then an allocation of its own, so that a read past its end is seen.
    exact = {**variables, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    verdicts = {}
    for tool in ("memcheck", "racecheck"):
        if sanitizer:
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, script, "--small"]
            commands[tool] = (command, exact)
        else:
            verdicts[tool] = "not run: compute-sanitizer is missing"
    for name, (command, chosen) in commands.items():
        print(f"== {name}", flush=True)
        log = folder / f"gpu-{name.replace(' ', '-')}.log"
        with log.open("w") as kept:
            code = subprocess.run(command, env=chosen, check=False, stdout=kept, stderr=subprocess.STDOUT).returncode
        lines = log.read_text(errors="replace").splitlines()
        # A crash says why in its first lines, a test in its last.
        shown = lines if len(lines) <= SHOWN else [*lines[: SHOWN // 2], f"... all of it: {log}", *lines[-SHOWN // 2 :]]
        print("\n".join(shown), flush=True)
        verdicts[name] = "passed" if code == 0 else f"FAILED (exit code {code})"
    return verdicts


def make_graph(call: Call) -> torch.cuda.CUDAGraph:
    """CALLS calls, numbered, after a warm-up in which libraries choose their algorithms."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for index in range(3):
            call(index)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(CALLS):
            call(index)
    return graph


def interleaved_medians(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Microseconds per call; every round times every op once, so that a slow moment meets all of them."""
    graphs = {name: make_graph(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(rounds + 2):
        for name, graph in graphs.items():
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            samples[name].append(begin.elapsed_time(end) / CALLS * 1e3)
    return {name: statistics.median(values[2:]) for name, values in samples.items()}


def several(tensor: Tensor) -> list[Tensor]:
    """Enough copies that going round over them finds none in the second-level cache."""
    cache = torch.cuda.get_device_properties(tensor.device).L2_cache_size
    count = max(2, math.ceil(4 * cache / (tensor.numel() * tensor.element_size())))
    return [tensor, *(torch.randn_like(tensor) for _ in range(count - 1))]


def over(images: list[Tensor], run: Callable[[Tensor], Tensor]) -> Call:
    """The op on one image after the other, by the number of the call."""
    return lambda index: run(images[index % len(images)])


def time_training(channels: int, size: int, dtype: torch.dtype, layout: str, rounds: int) -> dict[str, float]:
    """Forward and both gradients beside a copy of the same image; `of_copy` is the share of the copy's bandwidth."""
    ops, kind = torch.ops.asl, LAYOUTS[layout]
    x = torch.randn(BATCH, channels, size, size, device="cuda").to(dtype).contiguous(memory_format=kind)
    images, grads = several(x), several(torch.randn_like(x))
    shift = (torch.rand(channels, 2, device="cuda") - 0.5) * 4
    rest = (shift, None, [1, 1], [-1, -1])
    count = len(images)

    def backward(index: int, need_input: bool, need_shift: bool) -> object:
        return ops.active_shift_backward(grads[index % count], images[index % count], *rest, need_input, need_shift)

    times = interleaved_medians(
        {
            "copy": lambda index: images[index % count].clone(),
            "forward": lambda index: ops.active_shift(images[index % count], *rest),
            "input_gradient": lambda index: backward(index, True, False),
            "shift_gradient": lambda index: backward(index, False, True),
        },
        rounds,
    )
    # Each of the three moves as many bytes as the copy; the shift gradient reads two images and writes next to nothing.
    shares = {f"{name}_of_copy": times["copy"] / times[name] for name in times if name != "copy"}
    both = times["input_gradient"] + times["shift_gradient"]
    return {**times, **shares, "backward_of_copy": 2 * times["copy"] / both}


def time_fused(channels: int, size: int, mode: str, rounds: int) -> dict[str, float]:
    """The fused op against the library's GEMM and 1x1 convolution and its 3x3, each in its faster form."""
    dtype = torch.bfloat16 if mode == "bf16" else torch.float32
    fused = torch.ops.asl.shift_pointwise
    shift = (torch.rand(channels, 2, device="cuda") - 0.5) * 4
    weight = (torch.randn(channels, channels, device="cuda") / channels**0.5).to(dtype)
    dense = (torch.randn(channels, channels, 3, 3, device="cuda") / channels**0.5 / 3).to(dtype)
    calls: dict[str, Call] = {}
    for name, kind in LAYOUTS.items():
        x = torch.randn(BATCH, channels, size, size, device="cuda").to(dtype).contiguous(memory_format=kind)
        images = several(x)
        one, three = (w.contiguous(memory_format=kind) for w in (weight[:, :, None, None], dense))
        expected = torch.ops.asl.active_shift(x[:2].double(), shift.double(), None, [1, 1], [-1, -1])
        exact = functional.conv2d(expected, weight.double()[:, :, None, None])
        error = (fused(x[:2], shift, None, weight, None, [1, 1], [-1, -1], False).double() - exact).abs().max()
        if float(error / exact.abs().max()) > 2e-2:
            raise RuntimeError(f"fused {mode} {name} is wrong by {float(error):.2e} at {channels}@{size}")

        def run_fused(image: Tensor) -> Tensor:
            y: Tensor = fused(image, shift, None, weight, None, [1, 1], [-1, -1], False)
            return y

        calls[f"fused {name}"] = over(images, run_fused)
        calls[f"conv1x1 {name}"] = over(images, partial(functional.conv2d, weight=one))
        calls[f"conv3x3 {name}"] = over(images, partial(functional.conv2d, weight=three, padding=1))
        if name == "NHWC":
            rows = [image.permute(0, 2, 3, 1).reshape(-1, channels) for image in images]
            calls["gemm"] = over(rows, partial(torch.mm, mat2=weight.t()))
    times = interleaved_medians(calls, rounds)
    best = {op: min(value for name, value in times.items() if name.startswith(op)) for op in ("fused", "conv3x3")}
    bare = min(value for name, value in times.items() if name.startswith(("conv1x1", "gemm")))
    return {**times, "fused_over_1x1": best["fused"] / bare, "conv3x3_over_fused": best["conv3x3"] / best["fused"]}


def measure(out: Path, rounds: int, verdicts: dict[str, str]) -> None:
    """Times everything, prints the table and writes the file."""
    from aslconvert.kernels import build_info

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    os.environ["ASLCONVERT_TF32"] = "1"
    rows: list[dict[str, object]] = []
    print("\nshare of the copy's bandwidth")
    print(f"{'shape':>10} {'type':>8} {'layout':>6}  forward  backward (input, shift)")
    for channels, size in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for layout in LAYOUTS:
                result = time_training(channels, size, dtype, layout, rounds)
                short = str(dtype).removeprefix("torch.")
                rows.append(
                    {"kind": "training", "shape": f"{channels}@{size}", "dtype": short, "layout": layout, **result}
                )
                print(
                    f"{channels:>6}@{size:<3} {short:>8} {layout:>6} {result['forward_of_copy']:8.2f} "
                    f"{result['backward_of_copy']:9.2f} ({result['input_gradient_of_copy']:.2f}, "
                    f"{result['shift_gradient_of_copy']:.2f})",
                    flush=True,
                )
                torch.cuda.empty_cache()
    print(f"\n{'shape':>10} {'mode':>5}  fused / best library 1x1  library 3x3 / fused")
    for channels, size in SHAPES:
        for mode in ("bf16", "tf32"):
            result = time_fused(channels, size, mode, rounds)
            rows.append({"kind": "fused", "shape": f"{channels}@{size}", "dtype": mode, **result})
            ratios = f"{result['fused_over_1x1']:24.2f} {result['conv3x3_over_fused']:21.2f}"
            print(f"{channels:>6}@{size:<3} {mode:>5} {ratios}", flush=True)
            torch.cuda.empty_cache()

    def mean(kind: str, key: str) -> float:
        return statistics.geometric_mean(float(str(row[key])) for row in rows if row["kind"] == kind)

    summary = {
        "forward_of_copy_geomean": mean("training", "forward_of_copy"),
        "backward_of_copy_geomean": mean("training", "backward_of_copy"),
        "fused_over_1x1_geomean": mean("fused", "fused_over_1x1"),
        "conv3x3_over_fused_geomean": mean("fused", "conv3x3_over_fused"),
    }
    print("\n" + "  ".join(f"{name} {value:.3f}" for name, value in summary.items()))
    document = {
        "summary": summary,
        "checks": verdicts,
        "rows": rows,
        "batch": BATCH,
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "build": build_info(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"wrote {out}")


def main() -> int:
    """Runs all steps; see the module's text for the exit codes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench" / "gpu.json")
    parser.add_argument("--library", type=Path, default=ROOT / "build" / "carried" / "_asl.so", help="built elsewhere")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--skip-checks", action="store_true")
    parser.add_argument("--verdicts", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU here, or this torch cannot use it; nothing was run")
        return NO_GPU
    if options.verdicts:
        measure(options.out, options.rounds, json.loads(options.verdicts))
        return 0
    library = find_library(options.library)
    if library is None:
        print(f"no nvcc with CMake here, and no library at {options.library}: build one elsewhere and carry it")
        return NO_LIBRARY
    variables = environment(library)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    verdicts = {} if options.skip_checks else run_checks(variables, options.out.parent)
    for name, verdict in verdicts.items():
        print(f"{name}: {verdict}")
    # In a fresh process, which imports the kernels under these variables.
    again = [sys.executable, __file__, "--out", str(options.out), "--rounds", str(options.rounds)]
    code = subprocess.run(
        [*again, "--verdicts", json.dumps(verdicts or {"none": "skipped"})], env=variables, check=False
    )
    return 1 if code.returncode or any(verdict.startswith("FAILED") for verdict in verdicts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
