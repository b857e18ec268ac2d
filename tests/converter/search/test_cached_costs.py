"""Latencies of sites from the cache: taken when a look at a few agrees, else measured anew, and told either way."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from aslconvert.converter.cost import spread
from aslconvert.converter.cost.cache import LatencyCache, open_cache
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.search.costs import SiteCosts, site_costs

INPUTS = (torch.randn(1, 8, 12, 12),)


@pytest.fixture(scope="module")
def gm() -> fx.GraphModule:
    layers = [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return graph_module(export_model(nn.Sequential(*layers).eval(), INPUTS))


def costs(gm: fx.GraphModule, cache: LatencyCache | None) -> SiteCosts:
    sites, _ = find_sites(gm)
    return site_costs(gm, sites, INPUTS, seed=0, cache=cache)


def opened(folder: Path) -> LatencyCache:
    return open_cache({"device": "this"}, folder=folder)


@pytest.fixture
def tolerant(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is tested is the cache: on a busy machine the same call takes any multiple of its time.
    monkeypatch.setattr(spread, "STALE", 1e9)


def test_a_second_run_takes_the_first_ones_figures_and_says_so(
    gm: fx.GraphModule, tolerant: None, tmp_path: Path
) -> None:
    first = costs(gm, opened(tmp_path))
    assert (first.cached, first.notes) == (0, ())
    second = costs(gm, opened(tmp_path))
    assert second.costs == first.costs
    assert second.kept == first.kept
    assert second.cached == 2
    assert len(second.notes) == 1
    assert "2 of 2 sites are from the cache" in second.notes[0]
    # Without the cache nothing is taken from it.
    assert costs(gm, None).cached == 0


def test_another_kind_of_site_is_measured_and_joins_the_others(
    gm: fx.GraphModule, tolerant: None, tmp_path: Path
) -> None:
    costs(gm, opened(tmp_path))
    sites, _ = find_sites(gm)
    mixed = [sites[0], replace(sites[1], groups=8, row_groups=8)]
    found = site_costs(gm, mixed, INPUTS, seed=0, cache=opened(tmp_path))
    assert found.cached == 1
    assert len(opened(tmp_path).entries) == 2


def test_figures_that_no_longer_hold_are_refused(gm: fx.GraphModule, tmp_path: Path) -> None:
    costs(gm, opened(tmp_path))
    path = opened(tmp_path).path
    record = json.loads(path.read_text())
    for entry in record["entries"].values():
        entry["samples"] = {name: [1000.0] * len(figures) for name, figures in entry["samples"].items()}
    path.write_text(json.dumps(record))
    found = costs(gm, opened(tmp_path))
    assert found.cached == 0
    assert len(found.notes) == 1
    assert "measured anew" in found.notes[0]
    assert "1000.000 ms are stored" in found.notes[0]
    assert all(ms < 1000 for row in found.costs.values() for ms in row.values())
    # What was measured takes the place of what was refused.
    assert all(max(e.samples["keep"]) < 1000 for e in opened(tmp_path).entries.values())


def test_a_damaged_file_is_told(gm: fx.GraphModule, tmp_path: Path) -> None:
    costs(gm, opened(tmp_path))
    opened(tmp_path).path.write_text("{")
    found = costs(gm, opened(tmp_path))
    assert found.cached == 0
    assert "damaged" in found.notes[0]
    assert opened(tmp_path).entries
