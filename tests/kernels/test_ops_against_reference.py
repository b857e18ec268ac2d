"""Every op equals the reference over random shapes, strides, types, layouts, shifts and sources."""

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

import aslconvert.kernels

CASES = Path(__file__).parent / "cases.py"


def _load_cases() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_cases", CASES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernel_cases"] = module
    spec.loader.exec_module(module)
    return module


cases = _load_cases()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_ops_equal_the_reference(dtype: torch.dtype, seed: int) -> None:
    cases.check_all_ops(cases.random_problem(seed, dtype), seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_lines_that_span_far_more_than_the_image(dtype: torch.dtype, layout: torch.memory_format) -> None:
    problem = cases.problem_of_wide_lines(dtype, layout)
    assert torch.ops.asl.active_shift(*problem.arguments())[..., 1:].count_nonzero()
    cases.check_all_ops(problem, 0)


def test_a_line_too_long_for_tiles() -> None:
    cases.check_all_ops(cases.problem_of_a_long_line(torch.float32), 0)


def test_panels_cut_one_image_and_gather_several() -> None:
    generator = torch.Generator().manual_seed(0)
    for batch, channels, size in ((1, 48, 90), (9, 96, 7), (5, 32, 20), (2, 700, 5)):
        x = torch.randn(batch, channels, size, size, generator=generator)
        shift = torch.randint(-3, 4, (channels, 2), generator=generator) / 2
        weight = torch.randn(24, channels, generator=generator) / channels**0.5
        bias = torch.randn(24, generator=generator)
        for layout in (torch.contiguous_format, torch.channels_last):
            arguments = (x.contiguous(memory_format=layout), shift, None, weight, bias, [1, 1], [-1, -1], True)
            expected = aslconvert.kernels.reference.shift_pointwise(*arguments)
            cases.check_close(torch.ops.asl.shift_pointwise(*arguments), expected)


def _fresh_run(**variables: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-W", "error", str(CASES)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_without_the_library_the_reference_runs_the_ops() -> None:
    assert _fresh_run(ASLCONVERT_NO_NATIVE="1") == "reference switched off by ASLCONVERT_NO_NATIVE"


@pytest.mark.skipif(
    not aslconvert.kernels.build_info().get("isa", "").startswith("x86-64-"), reason="needs the x86 native kernels"
)
@pytest.mark.parametrize("isa", ["x86-64", "x86-64-v3"])
def test_loops_of_lesser_machines_agree_too(isa: str) -> None:
    assert _fresh_run(ASLCONVERT_MAX_ISA=isa) == f"native {isa}"
