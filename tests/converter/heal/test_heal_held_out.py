"""Held-out samples are apart from those trained on, and decide which weights are given back."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from aslconvert.converter.heal.average import MOST_DECAY, WARM, Average
from aslconvert.converter.heal.distil import Healing, heal
from aslconvert.converter.heal.held_out import LEAST, MOST, HeldOut, probe_loss
from aslconvert.converter.heal.pool import Pool, build_pool
from aslconvert.converter.ir.graph import copy_graph, find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in


@pytest.fixture(scope="module")
def teacher() -> fx.GraphModule:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    return graph_module(export_model(net.eval(), (torch.randn(2, 3, 8, 8),)))


@pytest.fixture(scope="module")
def pool(teacher: fx.GraphModule) -> Pool:
    return build_pool(teacher, (torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1)),))


@pytest.fixture
def student(teacher: fx.GraphModule) -> Callable[[], fx.GraphModule]:
    blocks = {site.name: stand_in(site, 2 * site.in_channels, seed=1) for site in find_sites(teacher)[0]}
    return lambda: replace_sites(teacher, blocks)


def steps(gm: fx.GraphModule, pool: Pool, count: int, **more: object) -> Healing:
    return heal(gm, pool, seconds=math.inf, seed=3, max_steps=count, **more)  # type: ignore[arg-type]


def numbered(count: int) -> Pool:
    return Pool(inputs=(torch.zeros(count, 1),), outputs=(torch.zeros(count, 1),))


@pytest.mark.parametrize(("count", "held"), [(40, 10), (300, LEAST), (900, 90), (5000, MOST)])
def test_no_sample_is_trained_and_judged_on(count: int, held: int) -> None:
    parts = HeldOut(numbered(count), seed=1)
    assert len(parts.held) == held
    assert sorted([*parts.train.tolist(), *parts.held.tolist()]) == list(range(count))
    # Not the last of the stored order, which may be one class.
    assert parts.held.tolist() != list(range(count - held, count))
    seen = {i for step in range(2 * count) for i in parts.indices(step, 8, seed=5).tolist()}
    assert seen <= set(parts.train.tolist())
    assert len(seen) > len(parts.train) - 8


@pytest.mark.parametrize(("count", "train", "held"), [(8, 8, 8), (16, 8, 8), (160, 120, 40)])
def test_a_fixed_batch_divides_both_parts(count: int, train: int, held: int) -> None:
    parts = HeldOut(numbered(count), seed=1, multiple=8)
    assert (len(parts.train), len(parts.held)) == (train, held)


def test_the_average_follows_quickly_and_then_slowly() -> None:
    live = torch.zeros(2)
    average = Average({"a": live})
    live.fill_(1.0)
    average.update(0)
    assert average.values["a"].tolist() == pytest.approx([1 - 1 / WARM] * 2)
    before = float(average.values["a"][0])
    live.fill_(2.0)
    average.update(10**6)
    assert float(average.values["a"][0]) == pytest.approx(before + (2 - before) * (1 - MOST_DECAY))


def test_what_is_given_back_has_the_held_out_loss_that_is_told(
    student: Callable[[], fx.GraphModule], pool: Pool
) -> None:
    gm = student()
    parts = HeldOut(pool, seed=3)
    start = parts.loss(gm)
    healing = steps(gm, pool, 60)
    assert healing.start_loss == start
    assert healing.best_loss < start
    assert healing.kept in ("raw", "averaged")
    assert parts.loss(gm) == healing.best_loss


def test_weights_in_the_place_of_the_own_ones_are_judged_and_do_not_stay(
    student: Callable[[], fx.GraphModule], pool: Pool
) -> None:
    gm, parts = student(), HeldOut(pool, seed=3)
    other = copy_graph(gm)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    before = parts.loss(gm)
    assert parts.loss(gm, dict(other.named_parameters())) == parts.loss(other) != before
    assert parts.loss(gm) == before


def test_a_healing_that_only_harms_gives_the_start_back_and_ends_early(
    student: Callable[[], fx.GraphModule], teacher: fx.GraphModule
) -> None:
    # Trained on noise that the original never said, judged likewise: no weights but by chance come closer.
    inputs = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    gm = student()
    parts = HeldOut(numbered(60), seed=3)
    outputs: Tensor = teacher(inputs).detach()
    with torch.no_grad():
        outputs[parts.held] = gm(inputs[parts.held]) + 1e-3
    start = {name: value.clone() for name, value in gm.state_dict().items()}
    healing = steps(gm, Pool(inputs=(inputs,), outputs=(outputs,)), 200)
    assert healing.kept == "start"
    assert healing.best_loss == healing.start_loss
    assert healing.stopped
    assert 100 < healing.steps < 200
    assert all(torch.equal(value, start[name]) for name, value in gm.state_dict().items())


def test_an_exact_start_is_not_healed(teacher: fx.GraphModule, pool: Pool, tmp_path: Path) -> None:
    healing = steps(copy_graph(teacher), pool, 50, checkpoint=tmp_path / "x.pt")
    assert (healing.steps, healing.stopped, healing.kept) == (0, True, "start")


def test_the_probe_reads_whole_batches_of_the_first_samples(student: Callable[[], fx.GraphModule], pool: Pool) -> None:
    gm = student()
    with torch.no_grad():
        off = (gm(*pool.inputs) - pool.outputs[0])[:48].abs().reshape(3, -1).mean(1)
    scale = pool.outputs[0][:48].abs().reshape(3, -1).mean(1)
    assert probe_loss(gm, pool, batch=16) == pytest.approx(float((off / scale).mean()), rel=1e-5)
