"""Properties over random problems: no result depends on the number of threads, and all taps make the convolution."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from aslconvert.kernels import reference

OPS = torch.ops.asl
# What a sum of at most 5 * 5 * 4 products loses; bfloat16 rounds the shifted panel besides.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", reference._DTYPES, ids=str)
@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 5),
    channels=st.sampled_from([1, 3, 16, 20, 48, 96]),
    rows=st.sampled_from([None, 5, 16, 33, 64]),
    outputs=st.sampled_from([1, 16, 24, 40]),
    height=st.sampled_from([1, 7, 20, 45]),
    width=st.sampled_from([1, 9, 32, 61]),
    stride=st.sampled_from([1, 1, 2]),
    last=st.booleans(),
    half=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_results_do_not_depend_on_the_number_of_threads(
    dtype: torch.dtype,
    batch: int,
    channels: int,
    rows: int | None,
    outputs: int,
    height: int,
    width: int,
    stride: int,
    last: bool,
    half: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    layout = torch.channels_last if last else torch.contiguous_format
    x = normal(batch, channels, height, width).contiguous(memory_format=layout)
    source = None if rows is None else torch.randint(0, channels, (rows,), generator=generator)
    count = channels if rows is None else rows
    shift = torch.randn(count, 2, generator=generator) * 2
    if half:
        shift = (shift * 2).round() / 2
    weight, bias = normal(outputs, count), normal(outputs)
    out = [(size - 1) // stride + 1 for size in (height, width)]
    residual = normal(batch, outputs, *out).contiguous(memory_format=layout)
    grad = normal(batch, count, *out).contiguous(memory_format=layout)
    common, sizes = (x, shift, source), ([stride] * 2, [-1, -1])
    packed = OPS.pack_pointwise(weight)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(
            {
                "active_shift": OPS.active_shift(*common, *sizes),
                "backward_input": OPS.active_shift_backward(grad, *common, *sizes, True, False)[0],
                "backward_shift": OPS.active_shift_backward(grad, *common, *sizes, False, True)[1],
                "plain": OPS.shift_pointwise(*common, weight, None, *sizes, False),
                "fused": OPS.shift_pointwise(*common, weight, bias, *sizes, True, residual),
                "packed": OPS.shift_pointwise_packed(*common, packed, outputs, bias, *sizes, True, residual),
            }
        )
    for other in results[1:]:
        assert [name for name in other if not torch.equal(other[name], results[0][name])] == []


@pytest.mark.parametrize("dtype", reference._DTYPES, ids=str)
@settings(max_examples=40, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    extra=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    channels=st.integers(1, 4),
    outputs=st.integers(1, 20),
    batch=st.integers(1, 2),
    last=st.booleans(),
    epilogue=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_all_taps_as_rows_are_any_convolution(
    dtype: torch.dtype,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    extra: tuple[int, int],
    channels: int,
    outputs: int,
    batch: int,
    last: bool,
    epilogue: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    size = [max(1, r + 1 - 2 * p) + e for r, p, e in zip(reach, padding, extra, strict=True)]
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(batch, channels, *size, generator=generator).to(dtype).contiguous(memory_format=layout)
    weight = (torch.randn(outputs, channels, *kernel, generator=generator) / (channels * 5)).to(dtype)
    bias = torch.randn(outputs, generator=generator).to(dtype) if epilogue else None
    expected = functional.conv2d(
        x.double(), weight.double(), None if bias is None else bias.double(), stride, padding, dilation
    )
    residual = torch.randn(expected.shape, generator=generator).to(dtype) if epilogue else None
    if residual is not None:
        expected = (expected + residual.double()).relu()
    taps = torch.cartesian_prod(*(torch.arange(float(k)) for k in kernel)).reshape(-1, 2)
    shift = (taps * torch.tensor(dilation) - torch.tensor(padding)).repeat(channels, 1)
    source = torch.arange(channels).repeat_interleave(len(taps))
    delta = [2 * p - r - 1 for p, r in zip(padding, reach, strict=True)]
    rest = (bias, list(stride), delta, epilogue, residual)
    plain = OPS.shift_pointwise(x, shift, source, weight.flatten(1), *rest)
    packed = OPS.shift_pointwise_packed(x, shift, source, OPS.pack_pointwise(weight.flatten(1)), outputs, *rest)
    tolerance = TOLERANCE[dtype]
    for actual in (plain, packed):
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * 2)
    mixed = functional.conv2d(
        OPS.active_shift(x.double(), shift.double(), source, list(stride), delta),
        weight.double().flatten(1)[:, :, None, None],
        None if bias is None else bias.double(),
    )
    torch.testing.assert_close(
        mixed if residual is None else (mixed + residual.double()).relu(), expected, rtol=1e-12, atol=1e-12
    )
