"""The streamed moments are the moments of the taps, whatever the geometry."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aslconvert.converter.fit.statistics import THIN_ABOVE, TapStatistics, gather_taps
from aslconvert.converter.ir.site import Geometry

AXIS = st.tuples(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(0, 3), st.integers(0, 3)
)  # kernel, stride, dilation, padding before and after


def geometry_of(rows: tuple[int, ...], columns: tuple[int, ...]) -> Geometry:
    return Geometry(*(tuple(pair) for pair in zip(rows, columns, strict=True)))


def read_tap(x: Tensor, geometry: Geometry, channel: int, tap: int) -> Tensor:
    """What one tap reads under every output position, pixel by pixel."""
    (offset_y, offset_x) = geometry.tap_offsets()[tap].int().tolist()
    height, width = geometry.output_size(tuple(x.shape[2:]))
    out = torch.zeros(len(x), height, width, dtype=x.dtype)
    for i in range(height):
        for j in range(width):
            y, z = i * geometry.stride[0] + offset_y, j * geometry.stride[1] + offset_x
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                out[:, i, j] = x[:, channel, y, z]
    return out.flatten()


@settings(max_examples=25, deadline=None)
@given(rows=AXIS, columns=AXIS, seed=st.integers(0, 99))
def test_moments_are_those_of_taps_read_pixel_by_pixel(
    rows: tuple[int, ...], columns: tuple[int, ...], seed: int
) -> None:
    geometry = geometry_of(rows, columns)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, 9, 8, generator=generator)
    y = torch.randn(3, 2, *geometry.output_size((9, 8)), generator=generator)
    statistics = TapStatistics(geometry)
    statistics.update(x[:1], y[:1])
    statistics.update(x[1:], y[1:])

    taps = torch.stack([read_tap(x, geometry, c, t) for c in range(2) for t in range(geometry.taps)]).double()
    target = y.transpose(0, 1).flatten(1).double()
    u, v = taps - taps.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    assert statistics.count == taps.shape[1]
    moments = statistics.moments()
    torch.testing.assert_close(moments.tap_mean, taps.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moments.covariance, u @ u.T / taps.shape[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moments.cross, u @ v.T / taps.shape[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(moments.target_variance, v.square().mean(1), atol=1e-5, rtol=1e-4)


def test_taps_times_weights_are_the_convolution() -> None:
    geometry = Geometry((3, 2), (2, 1), (1, 2), (1, 0), (0, 1))
    x, weight = torch.randn(2, 3, 10, 11), torch.randn(4, 3, 3, 2)
    taps = gather_taps(x, geometry)
    padded = torch.nn.functional.pad(x, (0, 1, 1, 0))
    expected = torch.nn.functional.conv2d(padded, weight, stride=(2, 1), dilation=(1, 2))
    given_back = (weight.flatten(1) @ taps).view(4, 2, *expected.shape[2:]).transpose(0, 1)
    torch.testing.assert_close(given_back, expected)


def test_thinning_reads_other_positions_in_each_batch_and_leaves_small_batches_whole() -> None:
    geometry = Geometry((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
    size = 72
    assert size * size > THIN_ABOVE
    x = torch.arange(float(size * size)).view(1, 1, size, size)
    thinned = TapStatistics(geometry, position_stride=3)
    for _ in range(3):
        thinned.update(x, x)
    # Three batches with other positions each: every one has been read exactly once.
    assert thinned.count == size * size
    assert thinned.moments().tap_mean.item() == pytest.approx(x.mean().item())
    small = TapStatistics(geometry, position_stride=3)
    small.update(x[..., :8, :8], x[..., :8, :8])
    assert small.count == 64


def test_what_does_not_fit_together_is_refused() -> None:
    statistics = TapStatistics(Geometry((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)))
    with pytest.raises(ValueError, match="no batch"):
        statistics.moments()
    with pytest.raises(ValueError, match="positions"):
        statistics.update(torch.randn(1, 2, 8, 8), torch.randn(1, 2, 7, 8))
