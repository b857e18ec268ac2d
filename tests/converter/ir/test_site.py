import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from aslconvert.converter.ir.site import Geometry

axis = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))


@settings(max_examples=25, deadline=None)
@given(st.lists(axis, min_size=1, max_size=3), st.integers(13, 17))
def test_output_size_is_torch_s(axes: list[tuple[int, int, int, int]], size: int) -> None:
    kernel, stride, dilation, padding = (tuple(values) for values in zip(*axes, strict=True))
    geometry = Geometry(kernel, stride, dilation, padding, padding)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(axes)]
    x, weight = torch.zeros(1, 1, *[size] * len(axes)), torch.zeros(1, 1, *kernel)
    output = convolve(x, weight, stride=stride, dilation=dilation, padding=padding)
    assert geometry.output_size((size,) * len(axes)) == tuple(output.shape[2:])


def test_tap_offsets_are_ordered_like_the_flat_kernel() -> None:
    geometry = Geometry((2, 3), (1, 1), (1, 2), (0, 2), (1, 2))
    assert geometry.taps == 6
    assert geometry.tap_offsets().tolist() == [[0, -2], [0, 0], [0, 2], [1, -2], [1, 0], [1, 2]]
    assert geometry.delta == (-1, -1)


@pytest.mark.parametrize(("before", "after"), [((1,), (0,)), ((0,), (1,))])
def test_padding_may_be_uneven(before: tuple[int], after: tuple[int]) -> None:
    geometry = Geometry((2,), (1,), (1,), before, after)
    assert geometry.output_size((7,)) == (7,)
    assert geometry.tap_offsets().flatten().tolist() == [-before[0], 1 - before[0]]
