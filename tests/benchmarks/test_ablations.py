"""The ablations of the fit: every changed part does what its name says, and a whole short run makes the table."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aslconvert.converter.fit.layerwise import apply_block, fit_layerwise
from aslconvert.converter.heal.pool import build_pool
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.replace_sites import replace_sites

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's modules, as the script finds them."""
    names = ("ablations", "block_wise", "fit_variants", "peers.tasks.task")
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("ablations", "block_wise", "fit_variants", "peers"):
                del sys.modules[name]


class Residual(nn.Module):
    """Two residual blocks, the second with a stride and a branch of its own; the batch's size is read first of all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b1, self.b2 = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.beside = nn.Conv2d(8, 12, 1, stride=2)
        self.head = nn.Linear(12, 4)

    def forward(self, image: Tensor) -> Tensor:
        count = image.size(0)
        x = torch.relu(self.stem(image))
        x = torch.relu(self.a2(torch.relu(self.a1(x))) + x)
        x = torch.relu(self.b2(torch.relu(self.b1(x))) + self.beside(x))
        scores: Tensor = self.head(x.mean((2, 3)).view(count, -1))
        return scores


def _case() -> tuple[Any, list[Any], list[tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    gm = fold_batch_norm(graph_module(export_model(Residual().eval(), (torch.zeros(2, 1, 16, 16),))))
    sites = [site for site in find_sites(gm)[0] if site.in_channels >= 8 and site.geometry.kernel == (3, 3)]
    return gm, sites, [(torch.randn(8, 1, 16, 16),) for _ in range(4)]


def _layer() -> tuple[Any, Any, list[tuple[Tensor, ...]]]:
    """One convolution and batches that it sees."""
    torch.manual_seed(0)
    gm = graph_module(export_model(nn.Conv2d(8, 6, 3, padding=1).eval(), (torch.zeros(2, 8, 12, 12),)))
    (site,), _ = find_sites(gm)
    return gm, site, [(functional.avg_pool2d(torch.randn(8, 8, 14, 14), 3, 1),) for _ in range(4)]


def _error(gm: Any, site: Any, block: Any, batches: list[tuple[Tensor, ...]]) -> float:
    with torch.no_grad():
        return sum(float((apply_block(block, site, x) - gm(x)).square().sum()) for (x,) in batches)


def test_as_it_stands_a_recipe_is_the_engines_fit(scripts: dict[str, ModuleType]) -> None:
    gm, sites, batches = _case()
    rows = {site.name: site.in_channels for site in sites}
    fits = fit_layerwise(gm, sites, rows, batches)
    blocks = scripts["fit_variants"].fitted(gm, sites, rows, batches, scripts["fit_variants"].Recipe(), importance={})
    for name, fit in fits.items():
        assert torch.equal(fit.block.source, blocks[name].source)
        assert torch.equal(fit.block.weight, blocks[name].weight)


def test_in_order_every_channel_gives_as_many_rows(scripts: dict[str, ModuleType]) -> None:
    gm, site, batches = _layer()
    variants = scripts["fit_variants"]
    for share in (1, 2):
        recipe = variants.Recipe(in_order=True)
        block = variants.fitted(gm, [site], {site.name: 8 * share}, batches, recipe, importance={})[site.name]
        assert block.source.tolist() == [c for c in range(8) for _ in range(share)]


def test_finer_grids_and_wider_windows_are_used(scripts: dict[str, ModuleType]) -> None:
    gm, site, batches = _layer()
    variants = scripts["fit_variants"]

    def shifts(**changes: Any) -> Tensor:
        recipe = variants.Recipe(**changes)
        shift: Tensor = variants.fitted(gm, [site], {site.name: 24}, batches, recipe, importance={})[site.name].shift
        return shift

    assert bool((shifts(grid=1.0) % 1 == 0).all())
    assert bool((shifts(grid=0.25) % 0.5 == 0.25).any())
    # What a wider window is worth needs an output that depends on pixels outside the kernel's.
    wide = variants.widened(site, 1)
    assert wide.gather.output_size((12, 12)) == site.gather.output_size((12, 12))
    weight = torch.zeros(6, 8, 5, 5)
    weight[:, :, 0, 4] = torch.randn(6, 8)
    pairs = [(x, functional.conv2d(x, weight, padding=2)) for (x,) in batches]
    found = variants._fit(site, 8, lambda: iter(pairs), variants.Recipe(reach=1, weighted=False), None)
    assert found.shift.tolist() == [[-2.0, 2.0]] * 8
    assert max(float((apply_block(found, site, x) - y).abs().max()) for x, y in pairs) < 1e-4


def test_ridges_that_are_chosen_differ_where_data_is_scarce(scripts: dict[str, ModuleType]) -> None:
    gm, site, batches = _layer()
    variants = scripts["fit_variants"]
    few = [(x[:1, :, :5, :5],) for (x,) in batches]
    unseen = [(torch.randn(16, 8, 12, 12),)]
    lost = {}
    for ridge in ("fixed", "gcv", "held out"):
        recipe = variants.Recipe(ridge=ridge)
        block = variants.fitted(gm, [site], {site.name: 48}, few, recipe, importance={})[site.name]
        lost[ridge] = _error(gm, site, block, unseen)
    assert lost["gcv"] != lost["fixed"]
    assert lost["held out"] <= lost["fixed"]


def test_teachers_inputs_are_not_the_students(scripts: dict[str, ModuleType]) -> None:
    gm, sites, batches = _case()
    variants, rows = scripts["fit_variants"], {site.name: 4 for site in sites}
    student, teacher, corrected, matched = (
        variants.fitted(gm, sites, rows, batches, recipe, importance={})
        for recipe in (
            variants.Recipe(),
            variants.Recipe(student=False),
            variants.Recipe(student=False, correct_bias=True),
            variants.Recipe(match_variance=True),
        )
    )
    first, last = sites[0].name, sites[-1].name
    assert torch.equal(student[first].weight, teacher[first].weight)
    assert not torch.equal(student[last].weight, teacher[last].weight)
    # The first site's input is the same for both, and least squares already match its mean.
    torch.testing.assert_close(corrected[first].bias, teacher[first].bias, atol=1e-5, rtol=0)
    assert not torch.allclose(corrected[last].bias, teacher[last].bias, atol=1e-4)
    assert float(matched[first].weight.norm()) > float(student[first].weight.norm())


def test_corrected_outputs_have_the_wanted_mean_and_variance(scripts: dict[str, ModuleType]) -> None:
    gm, site, batches = _layer()
    variants = scripts["fit_variants"]
    block = variants.fitted(gm, [site], {site.name: 4}, batches, variants.Recipe(), importance={})[site.name]
    block = replace(block, bias=block.bias + 1)
    with torch.no_grad():
        pairs = [(x, gm(x)) for (x,) in batches]
    wanted = torch.cat([y for _, y in pairs]).transpose(0, 1).flatten(1)
    for scale in (False, True):
        better = variants.corrected(block, site, lambda: iter(pairs), scale=scale)
        got = torch.cat([apply_block(better, site, x) for x, _ in pairs]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(got.mean(1), wanted.mean(1), atol=1e-5, rtol=0)
        assert bool(torch.allclose(got.var(1), wanted.var(1), rtol=1e-3)) == scale


def test_refining_lowers_the_error_of_a_layer(scripts: dict[str, ModuleType]) -> None:
    gm, site, batches = _layer()
    variants = scripts["fit_variants"]
    plain, refined = (
        variants.fitted(gm, [site], {site.name: 8}, batches, variants.Recipe(refine_steps=steps), importance={})
        for steps in (0, 60)
    )
    assert _error(gm, site, refined[site.name], batches) < 0.98 * _error(gm, site, plain[site.name], batches)
    assert not torch.equal(plain[site.name].shift, refined[site.name].shift)


def test_units_end_behind_the_residual(scripts: dict[str, ModuleType]) -> None:
    gm, sites, _ = _case()
    units = scripts["block_wise"].units_of(gm, sites)
    assert [[site.name for site in members] for members, _ in units] == [["a1", "a2"], ["b1", "b2"]]
    nodes = {node.name: node for node in gm.graph.nodes}
    assert all(nodes[end].target._opname == "relu" for _, end in units)
    assert all(nodes[end].all_input_nodes[0].target._opname == "add" for _, end in units)


def test_block_wise_reconstruction_brings_every_unit_nearer(scripts: dict[str, ModuleType]) -> None:
    gm, sites, batches = _case()
    variants, block_wise = scripts["fit_variants"], scripts["block_wise"]
    rows = {site.name: 4 for site in sites}
    student = replace_sites(gm, variants.fitted(gm, sites, rows, batches, variants.Recipe(), importance={}))
    pool = build_pool(gm, (torch.cat([x for (x,) in batches]),))
    ends = {end for _, end in block_wise.units_of(gm, sites)}

    def errors() -> dict[str, float]:
        got, wanted = block_wise._values(student, ends, pool), block_wise._values(gm, ends, pool)
        return {name: float((got[name] - wanted[name]).norm()) for name in ends}

    kept = {name: value.detach().clone() for name, value in gm.named_parameters()}
    before = errors()
    assert block_wise.reconstruct(student, gm, sites, pool, seconds=2.0, seed=0) > 10
    after = errors()
    assert all(after[name] < before[name] for name in ends)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert all(torch.equal(kept[name], value) for name, value in gm.named_parameters())


def test_a_whole_short_run_makes_the_table(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    ablations = scripts["ablations"]
    torch.manual_seed(0)
    net = Residual().eval()
    image = torch.randn(60, 1, 16, 16)
    with torch.no_grad():
        label = net(image).argmax(1)
    np.savez(tmp_path / "x.npz", image=image.numpy(), label=label.numpy(), split=np.arange(60) % 4)
    task = scripts["peers.tasks.task"].Task(
        name="digits", metric="top1", net=net, example=(torch.zeros(2, 1, 16, 16),), data=tmp_path / "x.npz", fixed=()
    )
    rows: list[dict[str, Any]] = []
    saved: list[int] = []
    wanted = [ablations.BASE, "sources in order", ablations.PLANNED, *ablations.TRAINED]
    ablations.run([task], wanted[:2], rows, seed=0, steps=2, save=lambda: saved.append(len(rows)))
    ablations.run([task], wanted, rows, seed=0, steps=2, save=lambda: saved.append(len(rows)))
    assert saved == [1, 2, 3, 4, 5, 6]
    assert [row["variant"] for row in rows] == wanted
    for row in rows:
        assert row["original"] == 1.0
        assert row["loss"] == pytest.approx(1.0 - row["value"])
        assert row["loss_ci"][0] <= row["loss"] <= row["loss_ci"][1]
    assert {row["relative_l2"] for row in rows[3:]} != {rows[0]["relative_l2"]}
    path = tmp_path / "page.md"
    path.write_text(f"before\n{ablations.MARKS[0]}old\n{ablations.MARKS[1]}after\n")
    ablations.write_page(path, rows)
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert all(f"| {name} | {100 * row['loss']:.2f} |" in text for name, row in zip(wanted, rows, strict=True))
