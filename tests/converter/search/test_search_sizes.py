"""Sizes of candidates add up to what counting the whole rewritten network gives."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.prepare import prepare
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import row_grid, stand_in
from aslconvert.converter.search.costs import input_shapes
from aslconvert.converter.search.sizes import Size, rest_of, site_sizes, size_of

LAYERS = {
    "strided and grouped": (nn.Conv2d(16, 24, 3, stride=2, padding=1, groups=4), (2, 16, 9, 11)),
    "depthwise without bias": (nn.Conv2d(16, 16, 5, groups=16, bias=False), (3, 16, 9, 11)),
    "transposed": (nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), (2, 16, 5, 6)),
    "one axis, float64": (nn.Conv1d(16, 8, 5, padding=2).double(), (2, 16, 20)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_candidate_of_one_layer_counts_what_the_network_does(name: str) -> None:
    layer, shape = LAYERS[name]
    inputs = (torch.randn(shape, dtype=next(layer.parameters()).dtype),)
    gm = graph_module(export_model(nn.Sequential(layer).eval(), inputs))
    (site,), _ = find_sites(gm)
    sizes = site_sizes([site], input_shapes(gm, [site], inputs))[site.name]
    assert size_of(gm, inputs) == sizes(None)
    for rows in (row_grid(site)[0], row_grid(site)[-2], row_grid(site)[-1]):
        assert size_of(replace_sites(gm, {site.name: stand_in(site, rows)}), inputs) == sizes(rows)


@pytest.mark.parametrize("name", ["resnet18", "unet", "odd"])
def test_sites_and_the_rest_add_up_to_the_whole(
    name: str, exported: Callable[[str], tuple[nn.Module, ExportedProgram]]
) -> None:
    _, program = exported(name)
    inputs = program.example_inputs
    assert inputs is not None
    example = tuple(inputs[0])
    gm = fold_batch_norm(prepare(graph_module(program)))
    sites, _ = find_sites(gm)
    sizes = site_sizes(sites, input_shapes(gm, sites, example))
    plan = {site.name: row_grid(site)[index % 2] for index, site in enumerate(sites)}
    # Tied sites are chosen together.
    first: dict[str, int] = {}
    plan = {site.name: first.setdefault(site.key, plan[site.name]) for site in sites}
    whole = size_of(gm, example)
    blocks = {site.name: stand_in(site, plan[site.name]) for site in sites}
    made = size_of(replace_sites(gm, blocks), example)
    rest, taken = rest_of(whole, sites, sizes), [sizes[site](rows) for site, rows in plan.items()]
    assert made.macs == rest.macs + sum(size.macs for size in taken)
    # Sites that share a weight or a bias are counted too high, never too low.
    told = rest.bytes + sum(size.bytes for size in taken)
    assert told == made.bytes if name != "odd" else made.bytes <= told < 1.05 * made.bytes
    kept = rest.bytes + sum(size(None).bytes for size in sizes.values())
    assert kept == whole.bytes if name != "odd" else kept > whole.bytes


def test_a_size_keeps_limits_that_it_meets_exactly() -> None:
    assert Size(4, 8).within(Size(4, 8))
    assert not Size(5, 8).within(Size(4, 8))
    assert not Size(4, 9).within(Size(4, 8))
