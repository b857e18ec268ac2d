"""The fused CUDA kernel, run by the emulator: exact within its rounding, without races, on devices of any size."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

HERE = Path(__file__).parent / "cuda"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kernel_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"kernel_{name}"] = module
    spec.loader.exec_module(module)
    return module


emulated = _load("emulated")
cases = _load("pointwise_cases")
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
TENSOR = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def kernels() -> Any:
    files = [*sorted(emulated.SOURCES.glob("pointwise_*.cu")), emulated.SOURCES / "pointwise_plan.cpp"]
    library = emulated.Emulated(*files, HERE / "pointwise_launch.cpp")
    library.read = emulated.Read
    return library


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), device=st.sampled_from([cases.LARGE, cases.MANY, cases.SMALL, cases.TINY]))
def test_random_problems(kernels: Any, dtype: torch.dtype, seed: int, device: tuple[int, int, int]) -> None:
    case = cases.random_case(seed, dtype)
    cases.check(case, cases.run(kernels, case, seed=seed, device=device))


@pytest.mark.deep
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_random_problems(kernels: Any, dtype: torch.dtype) -> None:
    devices = [cases.LARGE, cases.MANY, cases.SMALL, cases.TINY]
    for seed in range(60):
        case = cases.random_case(seed, dtype)
        cases.check(case, cases.run(kernels, case, seed=seed, device=devices[seed % len(devices)]))


@pytest.mark.parametrize("dtype", TENSOR, ids=str)
@pytest.mark.parametrize("columns", [64, 128, 264])
def test_each_tile_shape_over_several_tiles_of_a_block(kernels: Any, dtype: torch.dtype, columns: int) -> None:
    spatial = [9, 17] if columns == 64 else [5, 9]
    case = cases.make(columns, dtype, batch=3, channels=72, rows=None, columns=columns, spatial=spatial)
    for seed, device in enumerate([cases.LARGE, cases.SMALL]):
        cases.check(case, cases.run(kernels, case, seed=seed, device=device))


@pytest.mark.parametrize(("rows", "last"), [(1100, True), (1030, False)])
def test_more_rows_than_the_table_holds(kernels: Any, rows: int, last: bool) -> None:
    case = cases.make(
        rows, torch.bfloat16, batch=2, channels=16, rows=rows, columns=12, spatial=[5, 6], reach=1.5, last=last
    )
    cases.check(case, cases.run(kernels, case))


def test_no_rows(kernels: Any) -> None:
    case = cases.make(0, torch.bfloat16, batch=2, channels=3, rows=0, columns=5, spatial=[4, 9])
    cases.check(case, cases.run(kernels, case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("last", [True, False])
def test_all_taps_as_rows_are_the_convolution(kernels: Any, dtype: torch.dtype, stride: int, last: bool) -> None:
    channels, columns, kernel, padding, dilation = 9, 10, 3, 2, 2
    generator = torch.Generator().manual_seed(stride)
    case = cases.make(stride, dtype, batch=2, channels=channels, rows=None, columns=columns, spatial=[11, 7], last=last)
    full = torch.randn(columns, channels, kernel, kernel, generator=generator).to(dtype)
    offsets = torch.arange(kernel, dtype=torch.float32) * dilation - padding
    taps = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2)
    case = case.to(
        shift=taps.repeat(channels, 1),
        source=torch.arange(channels).repeat_interleave(kernel * kernel),
        weight=full.reshape(columns, -1),
        stride=[stride, stride],
        delta=[2 * padding - dilation * (kernel - 1) - 1] * 2,
    )
    y = cases.run(kernels, case)
    expected = torch.nn.functional.conv2d(
        case.x.double(), full.double(), case.bias.double(), stride=stride, padding=padding, dilation=dilation
    )
    torch.testing.assert_close(y.double(), expected, rtol=4 * cases.HALF_STEP[dtype], atol=2e-5)
    cases.check(case, y)


def _poisoned(x: Tensor) -> Tensor:
    """Not a number on the odd lines, infinite in the odd columns."""
    x = x.clone(memory_format=torch.preserve_format)
    x[:, :, 1::2] = torch.nan
    x[:, :, :, 1::2] = torch.inf
    return x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("reach", [2.0, 30.0])
def test_nothing_leaks_from_under_a_zero_weight(kernels: Any, dtype: torch.dtype, last: bool, reach: float) -> None:
    case = cases.make(
        7, dtype, batch=2, channels=20, rows=None, columns=9, spatial=[10, 12], stride=[2, 2], reach=reach, grid=2.0,
        last=last,
    )  # fmt: skip
    clean = cases.run(kernels, case)
    assert torch.equal(cases.run(kernels, case.to(x=_poisoned(case.x))), clean)
    unit = case.to(stride=[1, 1], delta=[-1, -1])
    even = cases.run(kernels, unit)[:, :, ::2, ::2]
    assert torch.equal(cases.run(kernels, unit.to(x=_poisoned(case.x)))[:, :, ::2, ::2], even)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_row_that_cannot_be_read_gives_no_numbers(kernels: Any, dtype: torch.dtype) -> None:
    case = cases.make(3, dtype, batch=1, channels=8, rows=8, columns=4, spatial=[4, 4])
    source, shift = case.source.clone(), case.shift.clone()
    source[2], shift[3, 1] = 8, torch.inf
    assert cases.run(kernels, case.to(source=source)).isnan().all()
    assert cases.run(kernels, case.to(shift=shift)).isnan().all()
    source[2] = -1
    assert cases.run(kernels, case.to(source=source)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_order_of_threads_changes_nothing(kernels: Any, dtype: torch.dtype) -> None:
    case = cases.make(5, dtype, batch=2, channels=70, rows=None, columns=70, spatial=[7, 9], reach=1.5, grid=None)
    results = [cases.run(kernels, case, seed=seed) for seed in range(4)]
    assert all(torch.equal(result, results[0]) for result in results)
