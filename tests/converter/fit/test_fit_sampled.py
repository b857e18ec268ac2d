"""Wide sites are fitted on the samples themselves: the same moments, bounded memory, several rows at a time."""

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aslconvert.converter.fit.dictionary import build_dictionary
from aslconvert.converter.fit.layerwise import WIDE, site_statistics
from aslconvert.converter.fit.pursuit import choose_together, pursue
from aslconvert.converter.fit.sampled import SampledTaps
from aslconvert.converter.fit.solve import fit_block
from aslconvert.converter.fit.statistics import TapStatistics
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.site import Geometry

GEOMETRY = Geometry((3, 2), (2, 1), (1, 2), (1, 1), (1, 2))


def batches(seed: int, *, channels: int = 4, outputs: int = 6, count: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Inputs with a mean, and targets that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, channels, 3, 2, generator=generator)
    found = []
    for _ in range(count):
        x = torch.randn(2, channels, 9, 8, generator=generator).relu() + 1
        padded = torch.nn.functional.pad(x, (1, 2, 1, 1))
        y = torch.nn.functional.conv2d(padded, weight, stride=(2, 1), dilation=(1, 2))
        found.append((x, y + torch.randn(y.shape, generator=generator)))
    return found


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), groups=st.sampled_from([1, 2]))
def test_moments_are_those_of_the_covariance_matrix(seed: int, groups: int) -> None:
    whole, sampled = TapStatistics(GEOMETRY, groups=groups), SampledTaps(GEOMETRY, groups=groups)
    for x, y in batches(seed):
        whole.update(x, y)
        sampled.update(x, y)
    dictionary = build_dictionary(GEOMETRY)
    generator = torch.Generator().manual_seed(seed)
    for group in range(groups):
        expected, got = whole.moments(group), sampled.moments(group)
        assert got.count == expected.count
        for name in ("cross", "tap_mean", "target_mean", "target_variance"):
            torch.testing.assert_close(getattr(got, name), getattr(expected, name), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got.own(6), expected.own(6), atol=1e-4, rtol=1e-4)
        channel = torch.randint(4 // groups, (5,), generator=generator)
        index = channel[:, None] * 6 + torch.arange(6)
        mix = dictionary.mix[torch.randint(dictionary.size, (5,), generator=generator)]
        torch.testing.assert_close(got.columns(index, mix), expected.columns(index, mix), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got.among(index, mix), expected.among(index, mix), atol=1e-4, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), groups=st.sampled_from([1, 2]))
def test_blocks_are_those_of_the_covariance_matrix(seed: int, groups: int) -> None:
    whole, sampled = TapStatistics(GEOMETRY, groups=groups), SampledTaps(GEOMETRY, groups=groups)
    for x, y in batches(seed):
        whole.update(x, y)
        sampled.update(x, y)
    expected, error = fit_block(whole, build_dictionary(GEOMETRY), rows=6)
    got, error_of_samples = fit_block(sampled, build_dictionary(GEOMETRY), rows=6)
    assert error_of_samples == pytest.approx(error, rel=1e-3)
    # Of two nearly equal rows rounding may choose the other one: then the errors agree, not the rows.
    if torch.equal(got.source, expected.source) and torch.equal(got.shift, expected.shift):
        torch.testing.assert_close(got.weight, expected.weight, atol=1e-3, rtol=1e-3)


def test_samples_stay_under_the_limit_and_come_from_every_batch() -> None:
    geometry = Geometry((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
    statistics = SampledTaps(geometry, limit_bytes=4 * 100)
    for index in range(20):
        statistics.update(torch.full((1, 1, 8, 8), float(index)), torch.zeros(1, 1, 8, 8))
        assert statistics.count <= 100
    moments = statistics.moments()
    assert moments.count >= 40
    found = (torch.cat(list(moments.taps), 1) + moments.tap_mean.float()[:, None]).round().unique()
    assert found.tolist() == list(range(20))
    assert float(moments.tap_mean) == pytest.approx(9.5, abs=1)


@pytest.mark.parametrize("width", [8, 14, 16])
def test_all_columns_of_an_image_are_read_alike(width: int) -> None:
    geometry = Geometry((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))
    statistics = SampledTaps(geometry, limit_bytes=4 * 2000)
    columns = torch.arange(float(width)).expand(8, 1, width, width).contiguous()
    for _ in range(16):
        statistics.update(columns, torch.zeros_like(columns))
    moments = statistics.moments()
    read = (torch.cat(list(moments.taps), 1) + moments.tap_mean.float()[:, None]).round().long().flatten()
    counts = torch.bincount(read, minlength=width)
    assert counts.max() < 2 * counts.min()


def test_a_large_batch_is_thinned_before_it_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    gathered: list[int] = []
    module = importlib.import_module("aslconvert.converter.fit.statistics")
    gather = module.gather_taps

    def noted(x: Tensor, geometry: Geometry, picked: Tensor) -> Tensor:
        taps: Tensor = gather(x, geometry, picked)
        gathered.append(taps.nbytes)
        return taps

    monkeypatch.setattr(module, "gather_taps", noted)
    statistics = SampledTaps(Geometry((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)), limit_bytes=1 << 20)
    statistics.update(torch.randn(2, 16, 96, 96), torch.randn(2, 4, 96, 96))
    assert gathered[0] <= 1 << 20


def test_nothing_is_added_to_what_was_read() -> None:
    statistics = SampledTaps(GEOMETRY)
    with pytest.raises(ValueError, match="no batch"):
        statistics.moments()
    (x, y), *_ = batches(0)
    statistics.update(x, y)
    statistics.moments()
    with pytest.raises(ValueError, match="complete"):
        statistics.update(x, y)


@pytest.mark.parametrize("together", [2, 5, 16])
def test_rows_that_are_chosen_together_are_nearly_as_good(together: int) -> None:
    statistics = TapStatistics(GEOMETRY)
    for x, y in batches(3, channels=24, outputs=12, count=8):
        statistics.update(x, y)
    moments, dictionary = statistics.moments(), build_dictionary(GEOMETRY)
    one_by_one = pursue(moments, dictionary, rows=48, together=1)
    found = pursue(moments, dictionary, rows=48, together=together)
    pairs = found.channel * dictionary.size + found.atom
    assert len(pairs.unique()) == 48
    assert float(found.error[-1]) <= 1.05 * float(one_by_one.error[-1])
    # The errors are told as they are: least squares on the same rows finds the same.
    index = found.channel[:, None] * 6 + torch.arange(6)
    mix = dictionary.mix[found.atom]
    covariance = moments.among(index, mix)
    cross = torch.einsum("kt,kto->ko", mix, moments.cross[index])
    explained = (cross * torch.linalg.solve(covariance, cross)).sum()
    assert float(found.error[-1]) == pytest.approx(1 - float(explained / moments.target_variance.sum()), abs=1e-4)


def test_only_large_sites_are_hurried() -> None:
    statistics = TapStatistics(GEOMETRY)
    (x, y), *_ = batches(0)
    statistics.update(x, y)
    moments = statistics.moments()
    assert choose_together(moments, 8) == 1
    assert choose_together(moments, 10**8) > 1


def test_a_site_of_many_taps_is_read_by_samples() -> None:
    channels = WIDE // 9 + 1
    model = torch.nn.Sequential(torch.nn.Conv2d(4, channels, 3), torch.nn.Conv2d(channels, 4, 3)).eval()
    gm = graph_module(torch.export.export(model, (torch.randn(1, 4, 8, 8),)))
    narrow, wide = find_sites(gm)[0]
    assert isinstance(site_statistics(narrow), TapStatistics)
    assert isinstance(site_statistics(wide), SampledTaps)
