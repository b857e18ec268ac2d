"""The CUDA kernels, run by the emulator on the CPU, equal the reference and touch nothing that they should not."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import itertools
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
pytestmark = [pytest.mark.long, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]


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
FEW = 12
"""Problems of each kind: the emulator is slow. `make test-deep` takes a hundred of each."""


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
@settings(max_examples=FEW, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_forward_equals_the_reference(kernels: Any, dtype: torch.dtype, seed: int) -> None:
    problem = problems.random_problem(seed, dtype)
    expected = reference.active_shift(*problem.arguments())
    _check_close(problem.first(_forward(kernels, problem, seed)), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=FEW, deadline=None)
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
@settings(max_examples=FEW, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_shift_gradient_equals_the_reference(kernels: Any, dtype: torch.dtype, seed: int) -> None:
    problem = problems.random_problem(seed, dtype)
    grad = problem.first(problem.grad)
    _, expected = reference.active_shift_backward(grad, *problem.arguments(), False, True)
    actual = _shift_gradient(kernels, problem, seed)
    # The sum is rounded to shift's type; its terms were added in the compute type of x.
    coarsest = max(torch.float32 if dtype != torch.float64 else dtype, actual.dtype, key=problems.TOLERANCE.__getitem__)
    _check_close(actual.double(), expected.double(), coarsest, 4)


QUICK_LAYOUTS = [(False, True), (True, False), (True, True)]


def _layouts() -> list[Any]:
    """Type, whether in channels_last, whether with sources; the deep ones differ from others in their type alone.

    Every layout is run in float32, and every other type in one of them.
    """
    ones = dict(zip((d for d in DTYPES if d != torch.float32), QUICK_LAYOUTS, strict=True))
    found = []
    for dtype, last, sources in itertools.product(DTYPES, (False, True), (False, True)):
        quick = ones.get(dtype, (last, sources)) == (last, sources)
        found.append(pytest.param(dtype, last, sources, marks=[] if quick else [pytest.mark.deep]))
    return found


@pytest.mark.parametrize(("dtype", "channels_last", "sources"), _layouts(), ids=str)
def test_images_that_are_cut_into_bands_and_tiles(
    kernels: Any, dtype: torch.dtype, channels_last: bool, sources: bool
) -> None:
    generator = torch.Generator().manual_seed(int(sources))
    batch, channels, height, width = (2, 72, 23, 30) if channels_last else (1, 3, 90, 202)
    rows = channels + 8 if sources else channels
    shift = (torch.rand(rows, 2, generator=generator) - 0.5) * 5
    if dtype == torch.float16:
        shift = shift.round()
    source = torch.randint(0, channels, (rows,), generator=generator).sort().values if sources else None
    x = torch.randn(batch, channels, height, width, generator=generator).to(dtype)
    grad = torch.randn(batch, rows, height, width, generator=generator).to(dtype)
    images = [t.movedim(1, -1).contiguous() if channels_last else t for t in (x, grad)]
    problem = problems.Problem(*images, shift, source, [1, 1], [-1, -1], channels_last)
    expected = reference.active_shift(*problem.arguments())
    _check_close(problem.first(_forward(kernels, problem, 0)), expected, dtype)
    expected, slopes = reference.active_shift_backward(problem.first(problem.grad), *problem.arguments(), True, True)
    _check_close(problem.first(_input_gradient(kernels, problem, 0)), expected, dtype, 2)
    _check_close(_shift_gradient(kernels, problem, 0).double(), slopes.double(), torch.float32, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_results_do_not_depend_on_the_order_of_threads(kernels: Any, dtype: torch.dtype, seed: int) -> None:
    problem = problems.random_problem(seed, dtype)
    for run in (_forward, _input_gradient, _shift_gradient):
        first = run(kernels, problem, 1)
        assert all(torch.equal(first, run(kernels, problem, other)) for other in (2, 3))


def _positions(problem: Any) -> list[Tensor]:
    """Per axis the sampled position of every row and output pixel, [K, out]."""
    axes = zip(problem.out, problem.stride, problem.shift.double().unbind(1), strict=True)
    return [torch.arange(count) * step + shift[:, None] for count, step, shift in axes]


def _far_outside(problem: Any) -> Tensor:
    """[K, *out]: no pixel lies within a pixel's reach of the position, not even for a central difference."""
    result = torch.zeros(len(problem.shift), *problem.out, dtype=torch.bool)
    for axis, at in enumerate(_positions(problem)):
        outside = (at < -1.01) | (at > problem.spatial[axis] + 0.01)
        result |= outside.view(len(at), *(at.shape[1] if d == axis else 1 for d in range(len(problem.out))))
    return result


def _with_holes(problem: Any, of_x: Tensor, of_grad: Tensor, value: float) -> Any:
    """The problem with `value` in x where of_x [C, *spatial] and in grad where of_grad [K, *out]."""
    x, grad = problem.x.clone(), problem.grad.clone()
    for image, mask in ((x, of_x), (grad, of_grad)):
        view = image.movedim(-1, 1) if problem.channels_last else image
        view.masked_fill_(mask, value)
    return dataclasses.replace(problem, x=x, grad=grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@settings(max_examples=FEW, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_no_tap_reads_never_leaks(kernels: Any, dtype: torch.dtype, value: float, seed: int) -> None:
    problem = problems.random_problem(seed, dtype)
    ones = torch.ones_like(problem.first(problem.grad))
    read, _ = reference.active_shift_backward(ones, *problem.arguments(), True, False)
    none = torch.zeros(problem.first(problem.grad).shape[1:], dtype=torch.bool)
    holed = _with_holes(problem, read[0] == 0, none, value)
    _check_close(problem.first(_forward(kernels, holed, seed)), reference.active_shift(*problem.arguments()), dtype)

    far = _far_outside(problem)
    holed = _with_holes(problem, torch.zeros_like(read[0], dtype=torch.bool), far, value)
    grad = problem.first(problem.grad).masked_fill(far, 0)
    expected = reference.active_shift_backward(grad, *problem.arguments(), True, True)
    _check_close(problem.first(_input_gradient(kernels, holed, seed)), expected[0], dtype, 2)
    coarsest = max(torch.float32, problem.shift.dtype, key=problems.TOLERANCE.__getitem__)
    _check_close(_shift_gradient(kernels, holed, seed).double(), expected[1].double(), coarsest, 4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_that_are_not_usable_stay_to_themselves(kernels: Any, channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    good = [1, 3, 4]
    x, grad = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 6, 8, 8, generator=generator)
    shift = torch.randn(6, 2, generator=generator)
    shift[5, 1] = torch.inf
    source = torch.tensor([-1, 0, 3, 2, 0, 1])
    images = [t.movedim(1, -1).contiguous() if channels_last else t for t in (x, grad)]
    problem = problems.Problem(*images, shift, source, [1, 1], [-1, -1], channels_last)
    usable = (x.double(), shift[good], source[good], [1, 1], [-1, -1])

    y = problem.first(_forward(kernels, problem, 0))
    assert torch.isnan(y[:, [0, 2, 5]]).all()
    _check_close(y[:, good], reference.active_shift(*usable), torch.float32)
    expected = reference.active_shift_backward(grad.double()[:, good], *usable, True, True)
    _check_close(problem.first(_input_gradient(kernels, problem, 0)), expected[0], torch.float32, 2)
    slopes = _shift_gradient(kernels, problem, 0)
    assert torch.isnan(slopes[[0, 2, 5]]).all()
    _check_close(slopes[good].double(), expected[1].double(), torch.float32, 4)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("distance", [3e6, 7e8, 4e9])
def test_shifts_far_beyond_the_image_read_nothing(kernels: Any, channels_last: bool, distance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(1, 8, 9, 10, generator=generator), torch.randn(1, 8, 9, 10, generator=generator)
    shift = torch.randn(8, 2, generator=generator)
    shift[1], shift[2, 0], shift[3, 1], shift[5] = distance, -distance, distance, -distance
    images = [t.movedim(1, -1).contiguous() if channels_last else t for t in (x, grad)]
    problem = problems.Problem(*images, shift, None, [1, 1], [-1, -1], channels_last)
    near = [0, 4, 6, 7]
    arguments = (x[:, near].double(), shift[near], None, [1, 1], [-1, -1])
    expected, slopes = reference.active_shift_backward(grad[:, near].double(), *arguments, True, True)
    for actual, inside in (
        (problem.first(_forward(kernels, problem, 0)), reference.active_shift(*arguments)),
        (problem.first(_input_gradient(kernels, problem, 0)), expected),
        (_shift_gradient(kernels, problem, 0)[None].double(), slopes[None].double()),
    ):
        _check_close(actual[:, near], inside, torch.float32, 4)
        assert not actual[:, [1, 2, 3, 5]].any()


def test_images_too_long_for_32_bits_are_refused(kernels: Any) -> None:
    fields = problems.Sizes(batch=1, channels=1, rows=1, dims=1)
    fields.size[:], fields.out[:], fields.stride[:] = [1, 1, 2**30], [1, 1, 2**30], [1, 1, 1]
    empty = torch.empty(1)
    with pytest.raises(emulated.KernelFault, match="too long"):
        kernels.call("asl_cuda_forward", ctypes.byref(fields), Read(empty), Read(empty), None, empty, None)


def test_the_list_of_readers_is_sorted_by_channel_and_row(kernels: Any) -> None:
    source = torch.tensor([2, 0, 2, 7, -3, 0, 2])
    problem = problems.Problem(torch.zeros(1, 3, 4), torch.zeros(1, 7, 4), torch.zeros(7, 1), source, [1], [-1], False)
    readers = torch.full((4 + 7,), -1, dtype=torch.int32)
    kernels.call(
        "asl_cuda_input_gradient", problem.sizes(), Read(problem.grad), Read(problem.shift), Read(source), readers,
        torch.zeros(1, 3, 4), None,
    )  # fmt: skip
    assert readers.tolist() == [0, 2, 2, 5, 1, 5, 0, 2, 6, 3, 4]


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_more_problems(kernels: Any, dtype: torch.dtype) -> None:
    checks = (
        test_forward_equals_the_reference,
        test_input_gradient_equals_the_reference,
        test_shift_gradient_equals_the_reference,
        test_results_do_not_depend_on_the_order_of_threads,
    )
    leaks = test_what_no_tap_reads_never_leaks.hypothesis.inner_test  # type: ignore[attr-defined]
    for seed in range(100):
        for check in checks:
            check.hypothesis.inner_test(kernels=kernels, dtype=dtype, seed=seed)  # type: ignore[attr-defined]
        leaks(kernels=kernels, dtype=dtype, value=torch.nan if seed % 2 else torch.inf, seed=seed)
