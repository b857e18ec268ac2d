"""Sites of every kind are fitted alike: 1 to 3 axes, dense, in groups and depthwise."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from aslconvert.converter.fit.dictionary import build_dictionary
from aslconvert.converter.fit.layerwise import apply_block, fit_layerwise, site_statistics
from aslconvert.converter.fit.solve import fit_block
from aslconvert.converter.fit.statistics import TapStatistics
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model

KINDS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1-D": (nn.Conv1d(6, 4, 5, padding=4, dilation=2), (4, 6, 40)),
    "3-D": (nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1), stride=(1, 2, 1)), (2, 3, 4, 10, 10)),
    "two groups": (nn.Conv2d(6, 8, 3, padding=1, groups=2), (4, 6, 12, 12)),
    "many groups": (nn.Conv2d(12, 12, 3, padding=1, groups=6), (4, 12, 12, 12)),
    "transposed": (nn.ConvTranspose2d(6, 4, 4, padding=1, stride=2), (4, 6, 12, 12)),
    "transposed, cropped": (nn.ConvTranspose1d(6, 4, 6, padding=1, stride=3, output_padding=1), (4, 6, 40)),
    "depthwise": (nn.Conv2d(6, 6, 5, padding=2, groups=6), (4, 6, 14, 14)),
    "depthwise, two outputs each": (nn.Conv1d(6, 12, 3, padding=1, groups=6), (4, 6, 40)),
}


def smooth(*shape: int) -> Tensor:
    """Noise whose neighbours are alike, as pictures are: few taps tell much about the others."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    for axis in range(2, len(shape)):
        x = x + x.roll(1, axis) + 0.5 * x.roll(2, axis)
    return x


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_error_falls_with_the_rows_and_is_the_one_told(kind: str) -> None:
    module, shape = KINDS[kind]
    gm = graph_module(export_model(module.eval(), (torch.randn(shape),)))
    (site,), _ = find_sites(gm)
    x = smooth(*shape)
    with torch.no_grad():
        wanted = module(x)
    centred = (wanted - wanted.mean((0, *range(2, wanted.dim())), keepdim=True)).norm()
    errors = []
    for rows in (site.in_channels, 2 * site.in_channels, site.exact_rows):
        fit = fit_layerwise(gm, [site], {site.name: rows}, [(x,)])[site.name]
        assert fit.block.rows == rows
        assert fit.block.groups == site.row_groups
        reached = float((apply_block(fit.block, site, x) - wanted).norm() / centred)
        assert reached == pytest.approx(fit.error, rel=0.02, abs=1e-5)
        errors.append(fit.error)
    assert errors[0] > errors[1] > errors[2] == 0.0


def test_groups_are_fitted_as_so_many_convolutions() -> None:
    """A grouped convolution is its groups side by side, and so is its fit."""
    module, shape = KINDS["many groups"]
    (site,), _ = find_sites(graph_module(export_model(module.eval(), (torch.randn(shape),))))
    x = smooth(*shape)
    with torch.no_grad():
        y = module(x)
    statistics = site_statistics(site)
    statistics.update(x, y)
    dictionary = build_dictionary(site.geometry)
    block, _ = fit_block(statistics, dictionary, rows=18)
    for group in range(6):
        alone = TapStatistics(site.geometry)
        alone.update(x[:, 2 * group : 2 * group + 2], y[:, 2 * group : 2 * group + 2])
        expected, _ = fit_block(alone, dictionary, rows=3)
        rows = slice(3 * group, 3 * group + 3)
        assert torch.equal(block.source[rows] - 2 * group, expected.source)
        assert torch.equal(block.shift[rows], expected.shift)
        torch.testing.assert_close(block.weight[2 * group : 2 * group + 2], expected.weight, rtol=1e-4, atol=1e-5)


def test_a_group_that_runs_out_of_rows_fills_up_with_zeros() -> None:
    module, shape = KINDS["depthwise"]
    (site,), _ = find_sites(graph_module(export_model(module.eval(), (torch.randn(shape),))))
    x = smooth(*shape)
    x[:, 2] = 1.0
    geometry = replace(site.geometry, padding_before=(0, 0), padding_after=(0, 0))
    statistics = TapStatistics(geometry, groups=6)
    with torch.no_grad():
        statistics.update(x, nn.functional.conv2d(x, module.weight, module.bias, groups=6))
    block, error = fit_block(statistics, build_dictionary(geometry), rows=18)
    assert block.rows == 18
    assert torch.equal(block.source, torch.arange(6).repeat_interleave(3))
    # What varies of a constant channel is rounding: no weight may blow it up.
    assert torch.count_nonzero(block.weight[2]) == 0
    assert 0 < error < 1
