"""The parts of healing: orthogonal updates, unit shift gradients, rates, the schedule and the loss."""

import pytest
import torch
from torch import nn

from aslconvert.converter.heal.loss import distillation_loss
from aslconvert.converter.heal.optimiser import (
    SHIFT_BASE,
    SHIFT_RATE,
    OrthogonalMomentum,
    ShiftGradients,
    base_rates,
    build_optimisers,
    orthogonalise,
    set_rates,
)
from aslconvert.converter.heal.schedule import WARM_UP, rate_factor


@pytest.mark.parametrize("shape", [(8, 8), (16, 4), (4, 48), (1, 5)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int], scale: float) -> None:
    matrix = torch.randn(shape) * scale
    found = orthogonalise(matrix)
    values = torch.linalg.svdvals(found)
    # The quintic iteration is tuned for speed: it ends between 0.7 and 1.2, more is not asked of it.
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    overlap = torch.diagonal(u.T @ found @ v.T)
    assert float(overlap.min()) > 0.5


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert torch.equal(orthogonalise(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_an_update_is_as_large_as_the_rate_says_whatever_the_gradient() -> None:
    steps = []
    for scale in (1e-3, 1e3):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(8, 12, 1, 1))
        before, gradient = weight.detach().clone(), torch.randn(8, 12, 1, 1)
        optimiser = OrthogonalMomentum([weight], lr=0.01)
        weight.grad = gradient * scale
        optimiser.step()
        steps.append(weight.detach() - before)
        size = before.norm() / 8**0.5
        assert float(steps[-1].flatten(1).norm() / (0.01 * size * 8**0.5)) == pytest.approx(1.0, abs=0.3)
        assert float((steps[-1] * gradient).sum()) < 0
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-3, atol=1e-6)


def test_no_gradient_no_update_and_no_closure() -> None:
    weight = nn.Parameter(torch.randn(3, 3))
    before = weight.detach().clone()
    optimiser = OrthogonalMomentum([weight])
    optimiser.step()
    assert torch.equal(weight, before)
    with pytest.raises(ValueError, match="closure"):
        optimiser.step(lambda: 0.0)


def test_shift_gradients_become_unit_rows_and_zeros_stay() -> None:
    shift, other = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(2, 2))
    shift.grad = torch.tensor([[3.0, -4.0], [0.0, 0.0], [1e-6, 0.0]])
    ShiftGradients([shift, other]).normalise()
    torch.testing.assert_close(shift.grad, torch.tensor([[0.6, -0.8], [0.0, 0.0], [1.0, 0.0]]))
    assert other.grad is None


def model_with_shift() -> nn.Module:
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(4, 6, 1, 1))
    model.bias = nn.Parameter(torch.randn(4))
    model.shift = nn.Parameter(torch.randn(6, 2))
    model.frozen = nn.Parameter(torch.randn(2, 2), requires_grad=False)
    return model


def test_each_kind_of_parameter_gets_its_own_optimiser_without_decay() -> None:
    model = model_with_shift()
    optimisers, gradients = build_optimisers(model, {"shift"})
    held = {type(o): [p for group in o.param_groups for p in group["params"]] for o in optimisers}
    assert [p is model.weight for p in held[OrthogonalMomentum]] == [True]
    assert [p is model.bias for p in held[torch.optim.Adam]] == [True]
    assert [p is model.shift for p in held[torch.optim.SGD]] == [True]
    assert [p is model.shift for p in gradients.shifts] == [True]
    assert all(group.get("weight_decay", 0.0) == 0.0 for o in optimisers for group in o.param_groups)
    shifts = next(o for o in optimisers if isinstance(o, torch.optim.SGD))
    assert shifts.param_groups[0]["lr"] == pytest.approx(SHIFT_BASE * SHIFT_RATE)


def test_a_shift_moves_by_its_rate_and_without_gradient_not_at_all() -> None:
    model = model_with_shift()
    optimisers, gradients = build_optimisers(model, {"shift"})
    before = model.shift.detach().clone()
    model.shift.grad = torch.zeros(6, 2)
    model.shift.grad[0] = torch.tensor([0.0, 5.0])
    gradients.normalise()
    for optimiser in optimisers:
        optimiser.step()
    moved = model.shift.detach() - before
    # Nesterov's first step is (1 + momentum) times the plain one.
    torch.testing.assert_close(moved[0], torch.tensor([0.0, -1.9 * SHIFT_BASE * SHIFT_RATE]), rtol=1e-3, atol=1e-6)
    assert torch.equal(moved[1:], torch.zeros(5, 2))


def test_rates_are_set_relative_to_where_they_began() -> None:
    optimisers, _ = build_optimisers(model_with_shift(), {"shift"})
    rates = base_rates(optimisers)
    for factor in (0.5, 0.1, 1.0):
        set_rates(optimisers, rates, factor)
        assert base_rates(optimisers) == [[rate * factor for rate in group] for group in rates]


def test_the_rate_rises_shortly_and_falls_to_zero() -> None:
    curve = [rate_factor(i / 1000) for i in range(1001)]
    top = curve.index(max(curve))
    assert top == pytest.approx(1000 * WARM_UP, abs=1)
    assert max(curve) == pytest.approx(1.0)
    assert curve[0] > 0
    assert curve[-1] == pytest.approx(0.0, abs=1e-9)
    assert curve[:top] == sorted(curve[:top])
    assert curve[top:] == sorted(curve[top:], reverse=True)
    assert rate_factor(-1.0) == curve[0]
    assert rate_factor(2.0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("shape", [(4, 10), (4, 3, 8, 8), (4, 1)])
def test_the_loss_is_zero_at_the_teacher_and_grows_away_from_it(shape: tuple[int, ...]) -> None:
    teacher, away = torch.randn(shape), torch.randn(shape)
    assert float(distillation_loss([teacher], [teacher])) == pytest.approx(0.0, abs=1e-6)
    losses = [float(distillation_loss([teacher + step * away], [teacher])) for step in (0.01, 0.1, 1.0)]
    assert 0 < losses[0] < losses[1] < losses[2]


def test_images_weigh_the_same_at_any_scale() -> None:
    teacher, student = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    plain = distillation_loss([student], [teacher])
    torch.testing.assert_close(distillation_loss([255 * student], [255 * teacher]), plain)
    torch.testing.assert_close(distillation_loss([student, 9 * student], [teacher, 9 * teacher]), plain)


def test_pixels_count_as_classes_where_that_is_said() -> None:
    teacher = torch.zeros(1, 2, 1, 2)
    teacher[0, 0] = torch.tensor([[9.0, 0.1]])
    sure, close = teacher.clone(), teacher.clone()
    sure[0, 0, 0, 0] -= 1
    close[0, 0, 0, 1] -= 1
    # By size alone both are as wrong; the second changes the class.
    torch.testing.assert_close(distillation_loss([sure], [teacher]), distillation_loss([close], [teacher]))
    told = [distillation_loss([one], [teacher], pixels_are_classes=True) for one in (teacher, sure, close)]
    assert float(told[0]) == pytest.approx(0.0, abs=1e-6)
    assert told[1] < 0.8 * told[2]


def test_a_model_without_float_output_cannot_be_distilled() -> None:
    with pytest.raises(ValueError, match="no floating-point"):
        distillation_loss([], [])
