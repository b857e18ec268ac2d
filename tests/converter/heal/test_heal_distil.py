"""Healing lowers the loss, keeps to its time, and goes on after an interrupt as if there had been none."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from aslconvert.converter.errors import AslconvertError, UserError
from aslconvert.converter.fit.layerwise import SiteFit, fit_layerwise
from aslconvert.converter.heal.distil import Healing, heal
from aslconvert.converter.heal.optimiser import shift_names
from aslconvert.converter.heal.pool import Pool, build_pool
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.replace_sites import replace_sites


@pytest.fixture(scope="module")
def teacher() -> fx.GraphModule:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 3, 3, padding=1),
    )
    return graph_module(export_model(net.eval(), (torch.randn(2, 3, 12, 12),)))


@pytest.fixture(scope="module")
def pool(teacher: fx.GraphModule) -> Pool:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(40, 3, 12, 12, generator=generator)
    return build_pool(teacher, (nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) * 2,))


@pytest.fixture(scope="module")
def fits(teacher: fx.GraphModule, pool: Pool) -> dict[str, SiteFit]:
    sites = find_sites(teacher)[0]
    return fit_layerwise(teacher, sites, {site.name: 2 * site.in_channels for site in sites}, [(pool.inputs[0][:16],)])


@pytest.fixture
def student(teacher: fx.GraphModule, fits: dict[str, SiteFit]) -> Callable[[], fx.GraphModule]:
    return lambda: replace_sites(teacher, {name: fit.block for name, fit in fits.items()})


def steps(gm: fx.GraphModule, pool: Pool, count: int, **more: object) -> Healing:
    return heal(gm, pool, seconds=600.0, seed=3, max_steps=count, **more)  # type: ignore[arg-type]


def distance(gm: fx.GraphModule, pool: Pool) -> float:
    with torch.no_grad():
        return float((gm(*pool.inputs) - pool.outputs[0]).abs().mean() / pool.outputs[0].abs().mean())


def test_healing_lowers_the_error_and_moves_every_kind_of_parameter(
    student: Callable[[], fx.GraphModule], pool: Pool, teacher: fx.GraphModule
) -> None:
    gm = student()
    before = {name: value.detach().clone() for name, value in gm.state_dict().items()}
    original = {name: value.detach().clone() for name, value in teacher.state_dict().items()}
    start = distance(gm, pool)
    healing = steps(gm, pool, 100)
    assert healing.steps == 100
    assert healing.last_loss < healing.first_loss
    assert distance(gm, pool) < 0.95 * start
    names = shift_names(gm)
    assert len(names) == 3
    after = gm.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name, value in after.items() if value.is_floating_point()
    }
    # Gently: momentum makes a step of a thousandth of a pixel a hundredth at most, and the rate falls to zero.
    assert all(float((after[name] - before[name]).abs().max()) < 1.0 for name in names)
    assert all(torch.equal(value, original[name]) for name, value in teacher.state_dict().items())


def test_the_same_seed_heals_to_the_same_weights(student: Callable[[], fx.GraphModule], pool: Pool) -> None:
    first, second = student(), student()
    steps(first, pool, 6)
    steps(second, pool, 6)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_time_allowed_is_kept(student: Callable[[], fx.GraphModule], pool: Pool) -> None:
    calls: list[tuple[float, float, float]] = []
    allowed = 0.6
    healing = heal(student(), pool, seconds=allowed, seed=0, on_step=lambda *call: calls.append(call))
    assert healing.steps == len(calls) > 1
    longest = max(b[0] - a[0] for a, b in zip([(0.0,), *calls], calls, strict=False))
    # At most the step that was begun in time runs over, whatever this machine takes for one.
    assert allowed <= healing.seconds <= allowed + 1.5 * longest + 0.05
    assert all(call[1] == allowed and math.isfinite(call[2]) for call in calls)


def test_an_interrupted_run_ends_in_the_same_weights(
    student: Callable[[], fx.GraphModule], pool: Pool, tmp_path: Path
) -> None:
    whole = student()
    steps(whole, pool, 12)
    count = 0

    def interrupt(*_: float) -> None:
        nonlocal count
        count += 1
        if count in (5, 8):
            raise KeyboardInterrupt

    checkpoint = tmp_path / "state" / "x.pt"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            steps(student(), pool, 12, checkpoint=checkpoint, on_step=interrupt)
        assert {path.name for path in checkpoint.parent.iterdir()} <= {"x.pt", "x.pt.before"}
    resumed = student()
    healing = steps(resumed, pool, 12, checkpoint=checkpoint)
    assert healing.steps == 12
    assert count == 8
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_finished_run_is_not_healed_again(student: Callable[[], fx.GraphModule], pool: Pool, tmp_path: Path) -> None:
    done, again = student(), student()
    first = steps(done, pool, 4, checkpoint=tmp_path / "x.pt")
    second = steps(again, pool, 4, checkpoint=tmp_path / "x.pt", on_step=lambda *_: pytest.fail("a step too many"))
    assert (second.steps, second.last_loss) == (first.steps, first.last_loss)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in done.state_dict().items())


def test_a_checkpoint_of_another_variant_is_refused(
    student: Callable[[], fx.GraphModule], teacher: fx.GraphModule, pool: Pool, tmp_path: Path
) -> None:
    steps(student(), pool, 2, checkpoint=tmp_path / "x.pt")
    sites = find_sites(teacher)[0][:1]
    other = fit_layerwise(teacher, sites, {sites[0].name: 4}, [(pool.inputs[0][:4],)])
    gm = replace_sites(teacher, {name: fit.block for name, fit in other.items()})
    with pytest.raises(AslconvertError) as caught:
        steps(gm, pool, 2, checkpoint=tmp_path / "x.pt")
    assert caught.value.code == "bad_checkpoint"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_healing(
    student: Callable[[], fx.GraphModule], pool: Pool, value: float, tmp_path: Path
) -> None:
    outputs = tuple(o.clone() for o in pool.outputs)
    outputs[0][:, 0, 0, 0] = value
    with pytest.raises(UserError) as caught:
        steps(student(), Pool(inputs=pool.inputs, outputs=outputs), 3, checkpoint=tmp_path / "x.pt")
    assert caught.value.code == "heal_diverged"
    assert not (tmp_path / "x.pt").exists()


def test_tied_sites_stay_tied(pool: Pool) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(torch.relu(self.conv(x)))

    gm = graph_module(export_model(Loop().eval(), (torch.randn(2, 3, 12, 12),)))
    own = build_pool(gm, pool.inputs)
    sites = find_sites(gm)[0]
    fits = fit_layerwise(gm, sites, {site.name: 6 for site in sites}, [(pool.inputs[0][:8],)])
    healed = replace_sites(gm, {name: fit.block for name, fit in fits.items()})
    start = distance(healed, own)
    steps(healed, own, 20)
    assert len(shift_names(healed)) == 1
    assert distance(healed, own) < start


def test_shifts_stay_in_the_window_of_the_fit_where_that_is_asked(
    student: Callable[[], fx.GraphModule], pool: Pool
) -> None:
    reached = {}
    for keep in (False, True):
        gm = student()
        before = {name: p.detach().clone() for name, p in gm.named_parameters() if name in shift_names(gm)}
        with torch.no_grad():
            for name, p in gm.named_parameters():
                if name not in before:
                    p.mul_(0.5)
        steps(gm, pool, 60, rate_scale=1.0, keep_window=keep)
        after = {name: p.detach() for name, p in gm.named_parameters() if name in before}
        assert any(not torch.equal(after[name], before[name]) for name in before)
        reached[keep] = all(
            bool((after[name] >= before[name].min(0).values.floor()).all())
            and bool((after[name] <= before[name].max(0).values.ceil()).all())
            for name in before
        )
    assert reached == {False: False, True: True}
