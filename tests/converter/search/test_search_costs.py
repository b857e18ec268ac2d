"""Candidates of every kind are measured, and a site that none of them makes faster is kept with a reason."""

import pytest
import torch
from torch import nn

from aslconvert.converter.cost.latency import summarise
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.search.candidates import row_grid
from aslconvert.converter.search.costs import gate, site_costs


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(8, 8, 5, padding=2), (1, 8, 24)),
        (nn.Conv3d(4, 8, 3, stride=2), (1, 4, 5, 7, 7)),
        (nn.Conv2d(16, 16, 3, padding="same", groups=8), (1, 16, 8, 8)),
        (nn.Conv2d(16, 16, (2, 4), padding="same", groups=16), (1, 16, 8, 8)),
    ],
)
def test_every_candidate_of_every_kind_has_a_latency(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(layer, nn.ReLU()).eval()
    gm = graph_module(export_model(model, (torch.randn(shape),)))
    sites, _ = find_sites(gm)
    measured = site_costs(gm, sites, (torch.randn(shape),), seed=0)
    assert set(measured.costs["0"]) == {None, *row_grid(sites[0])}
    assert all(value > 0 for value in measured.costs["0"].values())
    # At this size either answer may be right; whatever is kept says in figures why.
    assert all("ms" in reason for reason in measured.kept.values())


def test_the_gate_asks_for_a_gain_beyond_the_noise() -> None:
    keep = summarise([1.0, 1.02, 0.98, 1.01, 0.99, 1.0, 1.0])
    noisy = summarise([0.97, 1.05, 0.92, 1.1, 0.9, 0.99, 1.08])
    faster = summarise([0.8, 0.81, 0.79, 0.8, 0.82, 0.78, 0.8])
    slower = summarise([1.5] * 7)
    assert gate(keep, {8: faster, 16: slower}) is None
    reason = gate(keep, {8: noisy, 16: slower})
    assert reason is not None
    assert "8 shifted rows" in reason
    assert gate(keep, {}) is not None


@pytest.mark.parametrize(("channels", "groups"), [(16, 16), (48, 6), (64, 32), (6, 3), (5, 5)])
def test_rows_share_out_evenly_among_the_groups(channels: int, groups: int) -> None:
    gm = graph_module(
        export_model(nn.Conv2d(channels, channels, 3, groups=groups).eval(), (torch.randn(2, channels, 8, 8),))
    )
    (site,), _ = find_sites(gm)
    for probed in (True, False):
        grid = row_grid(site, probed=probed)
        assert grid == sorted(set(grid))
        assert grid[-1] == site.exact_rows
        assert all(rows % site.row_groups == 0 for rows in grid)
