"""Where a variant is healed, and that it comes back from there; what needs a GPU is skipped without one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, fx, nn

import aslconvert.kernels
from aslconvert.converter.errors import UsageError
from aslconvert.converter.heal.device import _move, healing_device, placed
from aslconvert.converter.heal.distil import heal
from aslconvert.converter.heal.optimiser import OrthogonalMomentum, orthogonalise
from aslconvert.converter.heal.pool import Pool, TaskTerm, build_pool
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in

GPU = torch.cuda.is_available() and aslconvert.kernels.build_info().get("cuda", "none") != "none"


class Ramp(nn.Module):
    """Makes a tensor of its own, has a constant, and mixes both into a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 4, 3, padding=1)
        self.offset = torch.full((1, 3, 1, 1), 0.5)  # neither parameter nor buffer

    def forward(self, x: Tensor) -> Tensor:
        ramp = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) / 8
        y: Tensor = self.last(torch.relu(self.conv(x + self.offset + ramp)))
        return y


def student_and_pool() -> tuple[fx.GraphModule, Pool]:
    torch.manual_seed(0)
    teacher = graph_module(export_model(Ramp().eval(), (torch.randn(2, 3, 8, 8),)))
    blocks = {site.name: stand_in(site, 2 * site.in_channels, seed=1) for site in find_sites(teacher)[0]}
    return replace_sites(teacher, blocks), build_pool(teacher, (torch.randn(80, 3, 8, 8),))


def devices_of(gm: fx.GraphModule) -> set[str]:
    tensors = [*gm.state_dict().values(), *(v for v in vars(gm).values() if isinstance(v, Tensor))]
    made = [node.kwargs["device"] for node in gm.graph.nodes if node.kwargs.get("device") is not None]
    assert made, "the graph makes no tensor of its own: this test would tell nothing"
    return {t.device.type for t in tensors} | {torch.device(d).type for d in made}


def test_everything_moves() -> None:
    gm, _ = student_and_pool()
    assert devices_of(gm) == {"cpu"}
    _move(gm, torch.device("meta"))
    assert devices_of(gm) == {"meta"}
    # The code that runs is that of the moved graph.
    assert gm(torch.empty(2, 3, 8, 8, device="meta")).device.type == "meta"


def test_a_pool_moves_with_what_is_wanted() -> None:
    _, pool = student_and_pool()
    wanted = TaskTerm("psnr", torch.zeros(80, 4, 8, 8), 0.5)
    moved = Pool(pool.inputs, pool.outputs, wanted, pixels_are_classes=True).to(torch.device("meta"))
    assert moved.task is not None
    assert {t.device.type for t in (*moved.inputs, *moved.outputs, moved.task.wanted)} == {"meta"}
    assert (moved.task.weight, moved.pixels_are_classes, len(moved)) == (0.5, True, 80)


def test_automatic_is_the_cpu_without_a_gpu() -> None:
    assert healing_device("cpu").type == "cpu"
    assert healing_device("auto").type == ("cuda" if GPU else "cpu")


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_a_gpu_that_is_missing_is_refused() -> None:
    with pytest.raises(UsageError, match="GPU") as refused:
        healing_device("cuda")
    assert refused.value.code == "device"
    assert refused.value.hint


def test_matrices_in_one_stack_become_orthogonal_alike() -> None:
    stack = torch.randn(5, 6, 9, dtype=torch.float64)
    alone = torch.stack([orthogonalise(matrix) for matrix in stack])
    torch.testing.assert_close(orthogonalise(stack), alone)
    torch.testing.assert_close(orthogonalise(stack.mT), alone.mT)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (3, 16, 64)])
def test_wide_matrices_become_what_the_plain_steps_give(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Singular values over six decades: the small ones are where squaring could lose them.
    scale = torch.logspace(0, -6, shape[-1], dtype=torch.float64)
    matrix = torch.randn(shape, dtype=torch.float64) * scale
    by_gram = orthogonalise(matrix), orthogonalise(matrix.float())
    monkeypatch.setattr("aslconvert.converter.heal.optimiser.GRAM_RATIO", 1e9)
    plain = orthogonalise(matrix)
    torch.testing.assert_close(by_gram[0], plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_gram[1].double(), plain, rtol=0, atol=2e-3)


def test_stacked_updates_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved() -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = [(4, 3, 1, 1), (6, 2), (4, 3), (4, 3, 1, 1)]
        parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        optimiser = OrthogonalMomentum(parameters)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimiser.step()
        return [p.detach() for p in parameters]

    alone = moved()
    # As on a GPU: all of one shape together.
    monkeypatch.setattr(OrthogonalMomentum, "_like", lambda _, parameter: (*parameter.flatten(1).shape,))
    for one, other in zip(alone, moved(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.parametrize("half", [False, True])
def test_a_gpu_heals_as_the_cpu_does(half: bool) -> None:
    losses = {}
    for name in ("cpu", "cuda"):
        gm, pool = student_and_pool()
        device = torch.device(name)
        with placed(gm, device):
            healing = heal(gm, pool.to(device), seconds=math.inf, max_steps=60, seed=3, half=half and name == "cuda")
        assert devices_of(gm) == {"cpu"}
        losses[name] = healing.best_loss
        assert healing.best_loss < 0.8 * healing.start_loss
    assert math.isclose(losses["cpu"], losses["cuda"], rel_tol=0.3 if half else 0.1)
