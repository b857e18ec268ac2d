"""Training ops in every layout, stride, type and source: exact, deterministic, and blind to what no tap reads."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aslconvert.kernels import active_shift, build_info, reference

CASES = Path(__file__).parent / "training_cases.py"


def _load_cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_cases", CASES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["training_cases"] = module
    spec.loader.exec_module(module)
    return module


cases = _load_cases()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_gradients_equal_the_float64_reference(dtype: torch.dtype, seed: int) -> None:
    cases.check(cases.random_problem(seed, dtype))


@pytest.mark.skipif(not build_info().get("isa", "").startswith("x86-64-"), reason="needs the x86 native kernels")
@pytest.mark.parametrize("isa", ["x86-64", "x86-64-v3"])
def test_lesser_machines_agree(isa: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ASLCONVERT_MAX_ISA": isa}
    command = [sys.executable, "-W", "error", str(CASES)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == isa


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_results_do_not_depend_on_the_number_of_threads(seed: int) -> None:
    problem = cases.random_problem(seed, torch.float32)
    wide = torch.cat([problem.x] * 9)
    if cases.reference.memory_format_of(problem.x) != torch.contiguous_format:
        wide = wide.contiguous(memory_format=cases.LAST[wide.dim() - 2])
    problem = cases.Problem(
        wide, problem.shift, problem.source, problem.stride, problem.delta, torch.cat([problem.grad] * 9)
    )
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((problem.forward(), *problem.backward()))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("stride", "delta"), [(1, -1), (1, -3), (2, -1), (3, 1)])
@pytest.mark.parametrize("source", [None, [3, 0, 2, 1, 4], [0, 2, 2, 4]], ids=["same", "permuted", "repeated"])
def test_gradcheck_at_fractional_shifts(last: bool, stride: int, delta: int, source: list[int] | None) -> None:
    torch.manual_seed(stride)
    x = torch.randn(2, 5, 7, 6, dtype=torch.double)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    rows = 5 if source is None else len(source)
    shift = (torch.randint(-3, 4, (rows, 2)) + 0.2 + 0.6 * torch.rand(rows, 2).double()).requires_grad_()
    index = None if source is None else torch.tensor(source)
    assert torch.autograd.gradcheck(
        lambda a, b: active_shift(a, b, source=index, stride=[stride] * 2, delta=[delta] * 2), (x, shift)
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), bad=st.sampled_from([float("nan"), float("inf"), -float("inf")]))
def test_bad_pixels_reach_what_reads_them_and_nothing_else(seed: int, bad: float) -> None:
    problem = cases.random_problem(seed, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for image in (problem.x, problem.grad):
        # Whatever the layout, elements of the tensor are set in place.
        places = torch.rand(image.shape, generator=generator) < 2 / image[0, 0].numel()
        image.masked_fill_(places, bad)
        y, grad_input, _ = problem.expected()
        assert torch.equal(torch.isfinite(problem.forward()), torch.isfinite(y))
        assert torch.equal(torch.isfinite(problem.backward()[0]), torch.isfinite(grad_input))
        if image is problem.x:
            # A bad pixel may not spoil the slope of a row that gives it no weight.
            assert torch.equal(torch.isfinite(problem.backward()[1]), torch.isfinite(problem.expected()[2]))
            image.masked_fill_(places, 0)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [5, 16, 40])
def test_memory_around_the_images_is_not_read_into_results(last: bool, channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    layout = torch.channels_last if last else torch.contiguous_format
    for size, stride in ((3, 1), (9, 2), (20, 1)):
        out = reference.output_size([size, size], [stride] * 2, [-1, -1])
        memory = torch.full((3, channels, size, size), torch.nan).contiguous(memory_format=layout)
        around = torch.full((3, channels, *out), torch.nan).contiguous(memory_format=layout)
        memory[1] = torch.randn(channels, size, size, generator=generator)
        around[1] = torch.randn(channels, *out, generator=generator)
        shift = torch.randn(channels, 2, generator=generator) * 2
        problem = cases.Problem(memory[1:2], shift, None, [stride] * 2, [-1, -1], around[1:2])
        cases.check(problem)
