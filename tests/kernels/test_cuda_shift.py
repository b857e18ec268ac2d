"""The CUDA kernels, run by the emulator on the CPU, equal the reference and touch nothing that they should not."""

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

from aslconvert.kernels import reference

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
problems = _load("problems")
Read = emulated.Read
DTYPES = list(problems.TYPES)


@pytest.fixture(scope="module")
def kernels() -> Any:
    return emulated.Emulated(*sorted(p for p in emulated.SOURCES.glob("*.cu") if not p.name.startswith("pointwise")))


def _read(tensor: Tensor | None) -> object:
    return None if tensor is None else Read(tensor)


def _forward(kernels: Any, problem: Any, seed: int) -> Tensor:
    y = torch.full_like(problem.grad, torch.nan)
    kernels.call(
        "asl_cuda_forward", problem.sizes(), Read(problem.x), Read(problem.shift), _read(problem.source), y, None,
        seed=seed,
    )  # fmt: skip
    return y


def _input_gradient(kernels: Any, problem: Any, seed: int) -> Tensor:
    result = torch.full_like(problem.x, torch.nan)
    channels = problem.x.shape[-1 if problem.channels_last else 1]
    readers = torch.empty(channels + 1 + len(problem.shift), dtype=torch.int32)
    kernels.call(
        "asl_cuda_input_gradient", problem.sizes(), Read(problem.grad), Read(problem.shift), _read(problem.source),
        readers, result, None, seed=seed,
    )  # fmt: skip
    return result


def _check_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, scale: float = 1.0) -> None:
    assert actual.shape == expected.shape
    if expected.numel():
        assert torch.isfinite(actual).all()
        error = (actual - expected).abs().max()
        assert error <= scale * problems.TOLERANCE[dtype] * (1 + expected.abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_forward_equals_the_reference(kernels: Any, dtype: torch.dtype, seed: int) -> None:
    problem = problems.random_problem(seed, dtype)
    expected = reference.active_shift(*problem.arguments())
    _check_close(problem.first(_forward(kernels, problem, seed)), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_input_gradient_equals_the_reference(kernels: Any, dtype: torch.dtype, seed: int) -> None:
    problem = problems.random_problem(seed, dtype)
    grad = problem.first(problem.grad)
    expected, _ = reference.active_shift_backward(grad, *problem.arguments(), True, False)
    _check_close(problem.first(_input_gradient(kernels, problem, seed)), expected, dtype, 2)


def _shift_gradient(kernels: Any, problem: Any, seed: int) -> Tensor:
    result = torch.full(problem.shift.shape, torch.nan, dtype=problem.shift.dtype)
    partial = torch.full(
        (kernels.number("asl_cuda_shift_gradient_workspace", problem.sizes()),), 255, dtype=torch.uint8
    )
    kernels.call(
        "asl_cuda_shift_gradient", problem.sizes(), Read(problem.grad), Read(problem.x), Read(problem.shift),
        _read(problem.source), partial, result, None, seed=seed,
    )  # fmt: skip
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_shift_gradient_equals_the_reference(kernels: Any, dtype: torch.dtype, seed: int) -> None:
    problem = problems.random_problem(seed, dtype)
    grad = problem.first(problem.grad)
    _, expected = reference.active_shift_backward(grad, *problem.arguments(), False, True)
    actual = _shift_gradient(kernels, problem, seed)
    # The sum is rounded to shift's type; its terms were added in the compute type of x.
    coarsest = max(torch.float32 if dtype != torch.float64 else dtype, actual.dtype, key=problems.TOLERANCE.__getitem__)
    _check_close(actual.double(), expected.double(), coarsest, 4)
