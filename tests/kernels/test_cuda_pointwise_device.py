"""The fused op on a real GPU: the emulator's properties, and what only a device has (skipped without one)."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch._inductor.config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aslconvert.kernels import reference
from aslconvert.kernels.ops import build_info

HERE = Path(__file__).parent / "cuda"
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or build_info().get("cuda", "none") == "none", reason="needs a GPU and its kernels"
)


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kernel_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"kernel_{name}"] = module
    spec.loader.exec_module(module)
    return module


cases = _load("pointwise_cases")
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def _arguments(case: cases.Case) -> list[object]:  # type: ignore[name-defined]
    values = [case.x, case.shift, case.source, case.weight, case.bias, case.stride, case.delta, case.relu]
    return [v.cuda() if isinstance(v, Tensor) else v for v in [*values, case.residual]]


def _run(case: cases.Case) -> Tensor:  # type: ignore[name-defined]
    os.environ["ASLCONVERT_TF32"] = str(int(case.tf32))
    try:
        y: Tensor = torch.ops.asl.shift_pointwise(*_arguments(case))
    finally:
        del os.environ["ASLCONVERT_TF32"]
    # Of one pixel or one channel an image is in both formats.
    assert y.is_contiguous(memory_format=reference.memory_format_of(case.x))
    return y.cpu()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_random_problems(dtype: torch.dtype, seed: int) -> None:
    case = cases.random_case(seed, dtype)
    cases.check(case, _run(case))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("channels", "columns", "size"), [(64, 64, 56), (64, 256, 56), (256, 64, 28), (512, 512, 7)])
def test_resnet_shapes(dtype: torch.dtype, channels: int, columns: int, size: int) -> None:
    case = cases.make(size, dtype, batch=3, channels=channels, rows=None, columns=columns, spatial=[size, size])
    cases.check(case, _run(case))
    cases.check(
        case.to(tf32=dtype == torch.float32, last=False), _run(case.to(tf32=dtype == torch.float32, last=False))
    )


def test_packed_weights_are_unpacked() -> None:
    case = cases.make(1, torch.bfloat16, batch=2, channels=24, rows=None, columns=20, spatial=[9, 9])
    x, shift, source, weight, bias, stride, delta, relu, residual = _arguments(case)
    packed = torch.ops.asl.pack_pointwise(weight)
    y = torch.ops.asl.shift_pointwise_packed(x, shift, source, packed, 20, bias, stride, delta, relu, residual)
    assert torch.equal(y.cpu(), _run(case))


def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs 20 GB of device memory")
    x = torch.zeros(1100, 64, 256, 128, dtype=torch.bfloat16, device="cuda").to(memory_format=torch.channels_last)
    x[-1] = torch.randn(64, 256, 128)
    shift = (torch.randn(64, 2) * 2).round() / 2
    weight = torch.randn(8, 64).bfloat16()
    y = torch.ops.asl.shift_pointwise(x, shift.cuda(), None, weight.cuda(), None, [1, 1], [-1, -1], False)
    last = x[-1:].contiguous(memory_format=torch.channels_last)
    alone = torch.ops.asl.shift_pointwise(last, shift.cuda(), None, weight.cuda(), None, [1, 1], [-1, -1], False)
    assert torch.equal(y[-1:], alone)
    assert not y[:-1].any()


def test_graph_capture_stream_and_device_guard() -> None:
    case = cases.make(2, torch.float16, batch=2, channels=70, rows=90, columns=64, spatial=[14, 14])
    expected = _run(case)
    arguments = _arguments(case)
    torch.ops.asl.shift_pointwise(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = torch.ops.asl.shift_pointwise(*arguments)
    y.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y.cpu(), expected)
    with torch.cuda.stream(torch.cuda.Stream()):
        side = torch.ops.asl.shift_pointwise(*arguments)
        torch.cuda.current_stream().synchronize()
    assert torch.equal(side.cpu(), expected)


# Inductor imports what torch itself has deprecated, and its pool of processes may outlive the test.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_autocast_and_compile_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    case = cases.make(4, torch.bfloat16, batch=2, channels=32, rows=None, columns=40, spatial=[10, 12])
    expected = _run(case)
    arguments = _arguments(case)

    def forward(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.asl.shift_pointwise(x, *arguments[1:])
        return y

    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(forward(arguments[0]).cpu(), expected)  # type: ignore[arg-type]
    compiled = torch.compile(forward, fullgraph=True)
    assert torch.equal(compiled(arguments[0]).cpu(), expected)


def test_wrong_devices_are_refused() -> None:
    case = cases.make(4, torch.bfloat16, batch=1, channels=8, rows=None, columns=8, spatial=[4, 4])
    arguments = _arguments(case)
    arguments[3] = case.weight
    with pytest.raises(RuntimeError, match="weight must be"):
        torch.ops.asl.shift_pointwise(*arguments)
