"""The kernel benchmark: its layers, its refusal of wrong results, its ratios, and a whole short run."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from aslconvert.kernels import ops, reference

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = ("shapes", "stopwatch", "ceilings", "kernel_peers")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's modules, importable by each other as when the script is run."""
    known = {name: sys.modules.pop(name, None) for name in NAMES}
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name, module in known.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def test_the_layers_of_the_issue_are_there(scripts: dict[str, ModuleType]) -> None:
    cases = scripts["shapes"].cases
    assert [(c.shape, c.batch) for c in cases("resnet", (1, 8))] == [
        (f"{channels}@{size}", batch)
        for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7))
        for batch in (1, 8)
    ]
    everything = cases("all", (1, 8))
    assert len({(c.shape, c.batch) for c in everything}) == len(everything)
    odd = [c for c in everything if c.group == "odd"]
    assert {c.channels for c in odd} >= {3, 24, 100}
    assert any((c.height, c.width) == (13, 17) and c.rows * 2 == c.channels * 3 and c.free for c in odd)
    assert all(c.epilogue for c in everything if c.group == "epilogue")


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 5),
    rows=st.integers(1, 7),
    outputs=st.integers(1, 4),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    batch=st.integers(1, 2),
    stride=st.sampled_from([1, 2]),
    padding=st.sampled_from([0, 1]),
    epilogue=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_every_call_of_a_random_layer_equals_float64(
    scripts: dict[str, ModuleType],
    channels: int,
    rows: int,
    outputs: int,
    height: int,
    width: int,
    batch: int,
    stride: int,
    padding: int,
    epilogue: bool,
    seed: int,
) -> None:
    shapes, peers = scripts["shapes"], scripts["kernel_peers"]
    case = shapes.Case("any", channels, height, width, batch, rows, outputs, stride, padding, epilogue)
    data = peers.make_data(case, torch.Generator().manual_seed(seed), device="cpu", dtype=torch.float32)
    assert data.mixed.numel() * case.outputs * 2 == case.flops() or stride != 1
    convolved = functional.conv2d(data.image, data.dense, None, stride, padding)
    assert tuple(convolved.shape[2:]) == case.out_size
    written = convolved.numel() * (2 if epilogue else 1)
    assert case.elements() == data.image.numel() + data.pointwise.numel() + written
    shifted = reference.active_shift(
        data.image.double(), data.shift.double(), data.source, [stride] * 2, [case.delta] * 2
    )
    torch.testing.assert_close(peers.bilinear(data.image.double(), data, case).transpose(0, 1), shifted)
    with torch.inference_mode():
        calls = peers.checked_calls(case, data)
    assert {op for op, _, _ in calls} == set(peers.OPS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_types_are_checked_and_called_as_well(scripts: dict[str, ModuleType], dtype: torch.dtype) -> None:
    shapes, peers = scripts["shapes"], scripts["kernel_peers"]
    for case in (shapes.Case("any", 16, 56, 56, 1, 16, 16), shapes.Case("any", 24, 13, 17, 2, 36, 24, epilogue=True)):
        data = peers.make_data(case, torch.Generator().manual_seed(0), device="cpu", dtype=dtype)
        with torch.inference_mode():
            calls = peers.checked_calls(case, data)
        assert {op for op, _, _ in calls} == set(peers.OPS)


def test_a_result_beyond_its_tolerance_is_refused(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes, peers = scripts["shapes"], scripts["kernel_peers"]
    case = shapes.Case("any", 16, 9, 9, 1, 16, 16)
    data = peers.make_data(case, torch.Generator().manual_seed(0), device="cpu", dtype=torch.float32)
    monkeypatch.setitem(peers.TOLERANCE, torch.float32, 1e-12)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="nothing was timed"):
        peers.checked_calls(case, data)


def test_rounds_are_paired_and_hopeless_forms_dropped(scripts: dict[str, ModuleType]) -> None:
    calls = {("sum", "few"): lambda: sum(range(100)), ("sum", "many"): lambda: sum(range(100_000))}
    contest = scripts["stopwatch"].Contest(calls, "cpu")
    contest.trial(lambda key: key[0], min_time=1e-4)
    contest.run(4)
    contest.run(3)
    assert contest.fastest(lambda key: key[0], "sum") == ("sum", "few")
    assert {key: len(values) for key, values in contest.samples.items()} == {("sum", "few"): 7}
    each = scripts["stopwatch"].Contest(calls, "cpu")
    each.trial(lambda key: key, min_time=1e-4)
    each.run(3)
    ratios = scripts["stopwatch"].paired(each.samples["sum", "many"], each.samples["sum", "few"])
    assert len(ratios) == 3
    assert min(ratios) > 10


def test_floor_is_the_larger_of_moving_and_computing(scripts: dict[str, ModuleType]) -> None:
    case = scripts["shapes"].Case("any", 8, 4, 4, 1, 8, 8)
    assert scripts["ceilings"].floors(case, [5.0, 0.5], [2.0, 2.0], case.flops()) == [5.0, 2.0]


@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("cmake")), reason="nothing is built without a compiler")
def test_a_library_older_than_its_sources_is_built(tmp_path: Path) -> None:
    source = tmp_path / "kernels" / "csrc" / "loops.cpp"
    source.parent.mkdir(parents=True)
    source.write_text("")
    (tmp_path / "CMakeLists.txt").write_text("")
    builder = tmp_path / "kernels" / "build.py"
    builder.write_text("from pathlib import Path\nPath(__file__).with_name('_asl.so').write_text('built')\n")
    (tmp_path / "benchmarks").symlink_to(BENCHMARKS)
    code = (
        "import importlib.util, sys, pathlib\n"
        "spec = importlib.util.spec_from_file_location('script', sys.argv[1])\n"
        "script = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(script)\n"
        "script.ROOT = pathlib.Path(sys.argv[2])\nscript.LIBRARY = script.ROOT / 'kernels' / '_asl.so'\n"
        "script.build_when_stale()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ASLCONVERT_KERNELS"}
    command = [sys.executable, "-c", code, str(BENCHMARKS / "kernels.py"), str(tmp_path)]
    library = tmp_path / "kernels" / "_asl.so"
    subprocess.run(command, env=environment, check=True)
    assert library.read_text() == "built"
    library.write_text("newer than its sources")
    subprocess.run(command, env=environment, check=True)
    assert library.read_text() == "newer than its sources"
    later = library.stat().st_mtime + 10
    os.utime(source, (later, later))
    subprocess.run(command, env=environment, check=True)
    assert library.read_text() == "built"


def test_a_whole_short_run(tmp_path: Path, scripts: dict[str, ModuleType]) -> None:
    out = tmp_path / "bench" / "kernels.json"
    command = [sys.executable, str(BENCHMARKS / "kernels.py"), "--out", str(out), "--seed", "5", "--batches", "1"]
    command += ["--rounds", "3", "--min-time", "1e-5", "--threads", "1,2"]
    # The library that is there is what is tested: nothing is built in between.
    environment = dict(os.environ)
    if ops.LIBRARY_PATH.exists():
        environment["ASLCONVERT_KERNELS"] = str(ops.LIBRARY_PATH)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())
    rows = document["rows"]
    cells = {(row["shape"], row["batch"], row["threads"]) for row in rows}
    assert len(cells) == 8
    assert len(rows) == len(cells) * len(scripts["kernel_peers"].OPS)
    plain = {"shape", "batch", "threads", "dtype", "device", "op", "layout", "ms"}
    assert all(plain <= row.keys() and row["ms"] > 0 and row["floor_ms"] > 0 for row in rows)
    bare = [row["fused_over"] for row in rows if row["op"] == "conv1x1"]
    single = [row["fused_over"] for row in rows if row["op"] == "conv1x1" and row["threads"] == 1]
    assert len(bare) == 8
    summary = document["summary"]
    assert summary["fused_over_1x1_geomean"] == pytest.approx(statistics.geometric_mean(single))
    assert summary["fused_over_1x1_worst"] == pytest.approx(max(single))
    assert {"conv3x3_over_fused_geomean", "depthwise_over_fused_geomean"} <= summary.keys()
    assert summary["2_threads_fused_over_1x1_worst"] > 0
    assert (document["seed"], document["torch"]) == (5, torch.__version__)
    assert document["profile"]["cpu"]
