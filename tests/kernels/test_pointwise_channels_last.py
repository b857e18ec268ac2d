"""The fused op in channels_last: blocks of channels, borders, tails, and what it must not read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import aslconvert.kernels
from aslconvert.kernels import reference


def _close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    # A single channel or pixel fits both layouts: only strides that matter are compared.
    strides = zip(actual.stride(), expected.stride(), expected.shape, strict=True)
    assert all(a == b for a, b, size in strides if size > 1)
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 16, 20, 33, 48]),
    outputs=st.sampled_from([1, 7, 16, 40]),
    height=st.integers(1, 9),
    width=st.sampled_from([1, 2, 5, 16, 37]),
    delta=st.tuples(st.integers(-1, 2), st.integers(-1, 2)),
    reach=st.sampled_from([0.5, 1.0, 2.4, 6.0, 60.0]),
    grid=st.sampled_from([None, 0.5, 1.0]),
    bias=st.booleans(),
    relu=st.booleans(),
    transposed=st.booleans(),
    source_kind=st.sampled_from(["none", "sorted", "any"]),
    seed=st.integers(0, 2**31),
)
def test_equals_the_reference(
    batch: int,
    channels: int,
    outputs: int,
    height: int,
    width: int,
    delta: tuple[int, int],
    reach: float,
    grid: float | None,
    bias: bool,
    relu: bool,
    transposed: bool,
    source_kind: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    source = None
    rows = channels
    if source_kind != "none":
        rows = int(torch.randint(1, 2 * channels + 1, (), generator=generator))
        source = torch.randint(0, channels, (rows,), generator=generator)
        if source_kind == "sorted":
            source = source.sort().values
    shift = (torch.rand(rows, 2, generator=generator) * 2 - 1) * reach
    if grid is not None:
        shift = (shift / grid).round() * grid
    weight = torch.randn(outputs, rows, generator=generator) / rows**0.5
    if transposed:
        weight = weight.t().contiguous().t()
    offset = torch.randn(outputs, generator=generator) if bias else None
    arguments = (x, shift, source, weight, offset, [1, 1], list(delta), relu)
    _close(torch.ops.asl.shift_pointwise(*arguments), reference.shift_pointwise(*arguments))


@pytest.mark.parametrize("rows", [16, 24, 40])
def test_rows_that_read_whole_blocks_of_channels_in_another_order(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(2, 48, 11, 9, generator=generator).contiguous(memory_format=torch.channels_last)
    source = torch.cat([torch.arange(32, 48), torch.arange(5, 21), torch.arange(40, 48)])[:rows]
    shift = torch.randint(-2, 3, (rows, 2), generator=generator) / 2
    weight = torch.randn(10, rows, generator=generator)
    arguments = (x, shift, source, weight, None, [1, 1], [-1, -1], False)
    _close(torch.ops.asl.shift_pointwise(*arguments), reference.shift_pointwise(*arguments))


@settings(max_examples=40, deadline=None)
@given(
    channels=st.sampled_from([4, 16, 19, 32]),
    size=st.sampled_from([3, 7, 18]),
    bad=st.sampled_from([float("nan"), float("inf")]),
    gathered=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_reads_no_pixel_beyond_the_image_and_none_that_a_channel_has_no_weight_for(
    channels: int, size: int, bad: float, gathered: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(-2, 3, (channels, 2), generator=generator) / 2
    # The image is the middle of a larger one: what lies around it in memory is bad too.
    memory = torch.full((3, size, size, channels), bad)
    memory[1] = torch.randn(size, size, channels, generator=generator)
    pixel = torch.randint(0, size, (2,), generator=generator)
    memory[1, pixel[0], pixel[1]] = bad
    x = memory[1:2].permute(0, 3, 1, 2)
    assert x.is_contiguous(memory_format=torch.channels_last)
    source = torch.randperm(channels, generator=generator) if gathered else None
    shifted = reference.active_shift(x, shift, source, [1, 1], [-1, -1])
    summed = aslconvert.kernels.shift_pointwise(x, shift, torch.ones(1, channels), source=source)
    assert torch.equal(torch.isfinite(summed), torch.isfinite(shifted.sum(1, keepdim=True)))


def test_far_shifts_and_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 20, 40, 40, generator=generator).contiguous(memory_format=torch.channels_last)
    shift = torch.randint(-2, 3, (20, 2), generator=generator) / 2
    shift[3], shift[7, 1] = 1e9, -40.0
    weight = torch.randn(8, 20, generator=generator)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for source in (None, torch.arange(20).flip(0)):
                arguments = (x, shift, source, weight, None, [1, 1], [-1, -1], False)
                _close(torch.ops.asl.shift_pointwise(*arguments), reference.shift_pointwise(*arguments))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_shifts_changed_in_place_and_reused_for_other_shapes_are_seen(layout: torch.memory_format) -> None:
    shift = torch.zeros(4, 2)
    for step in range(4):
        shift[step % 4] += 0.5
        # The same memory as four rows in two axes, and as eight rows in one.
        for size in ((6, 7), (9, 7), (7, 9)):
            x = torch.randn(1, 4, *size).contiguous(memory_format=layout)
            arguments = (x, shift, None, torch.randn(3, 4), None, [1, 1], [-1, -1], False)
            _close(torch.ops.asl.shift_pointwise(*arguments), reference.shift_pointwise(*arguments))
        line = (torch.randn(1, 8, 7), shift.view(8, 1), None, torch.randn(3, 8), None, [1], [-1], False)
        _close(torch.ops.asl.shift_pointwise(*line), reference.shift_pointwise(*line))
