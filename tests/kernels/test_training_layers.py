"""The modules that train: one autograd node for shift and 1x1, integer mode, and what export makes of them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from aslconvert.kernels import ActiveShift, ShiftPointwise, active_shift

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _layer(**options: bool) -> ShiftPointwise:
    source = torch.tensor([0, 3, 3, 1, 2, 0])
    return ShiftPointwise(torch.randn(6, 2) + 0.01, torch.randn(5, 6), torch.randn(5), source=source, **options)


def _composed(layer: ShiftPointwise, x: Tensor, shift: Tensor) -> Tensor:
    rows = active_shift(x, shift, source=layer.source, stride=layer.stride, delta=layer.delta)
    return functional.conv2d(rows, layer.weight[:, :, None, None], layer.bias)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_block_trains_as_its_two_steps_do(layout: torch.memory_format, recompute: bool, dtype: torch.dtype) -> None:
    layer = _layer(recompute=recompute).to(dtype)
    exact = copy.deepcopy(layer).double()
    x = torch.randn(3, 4, 7, 5).to(dtype).contiguous(memory_format=layout).requires_grad_()
    image = x.detach().double().requires_grad_()
    y, expected = layer(x), _composed(exact, image, exact.shift)
    assert y.is_contiguous(memory_format=layout)
    grad = torch.randn(y.shape).to(dtype)
    y.backward(grad)
    expected.backward(grad.double())
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=layout)
    pairs = [(y, expected), (x.grad, image.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(layer.parameters(), exact.parameters(), strict=True)]
    for actual, wanted in pairs:
        assert actual is not None
        assert wanted is not None
        scale = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 3e-2}[dtype]
        assert (actual.double() - wanted).abs().max() <= scale * (1 + wanted.abs().max())


def test_recomputing_changes_no_bit() -> None:
    x = torch.randn(2, 4, 9, 9).contiguous(memory_format=torch.channels_last)
    kept = _layer()
    again = copy.deepcopy(kept)
    again.recompute = True
    for layer in (kept, again):
        layer(x).square().sum().backward()
    for one, two in zip(kept.parameters(), again.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad)


def test_gradcheck_of_the_block_and_of_parts_of_its_inputs() -> None:
    x = torch.randn(2, 4, 5, 4).double().contiguous(memory_format=torch.channels_last)
    layer = _layer().double()
    leaves = [layer.shift.detach(), layer.weight.detach(), layer.bias.detach() if layer.bias is not None else None, x]
    for wanted in ((0, 1, 2, 3), (1,), (3,), (0,), (2,)):
        inputs = [leaf.clone().requires_grad_(i in wanted) for i, leaf in enumerate(leaves) if leaf is not None]
        inputs[3] = inputs[3].detach().contiguous(memory_format=torch.channels_last).requires_grad_(3 in wanted)

        def run(shift: Tensor, weight: Tensor, bias: Tensor, image: Tensor) -> Tensor:
            values = {"shift": shift, "weight": weight, "bias": bias}
            y: Tensor = torch.func.functional_call(layer, values, (image,))
            return y

        assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_without_gradients_the_fused_op_gives_the_same(layout: torch.memory_format) -> None:
    layer = _layer()
    x = torch.randn(2, 4, 9, 9).contiguous(memory_format=layout)
    with torch.no_grad():
        fused = layer(x)
    torch.testing.assert_close(fused, layer(x).detach(), rtol=1e-5, atol=1e-5)


def test_one_and_three_axes() -> None:
    for axes, size in ((1, (9,)), (3, (3, 4, 5))):
        layer = ShiftPointwise(torch.randn(4, axes), torch.randn(2, 4))
        x = torch.randn(2, 4, *size)
        y = layer(x)
        assert y.shape == (2, 2, *size)
        y.square().sum().backward()
        assert all(p.grad is not None for p in layer.parameters())
        with torch.no_grad():
            torch.testing.assert_close(layer(x), y.detach(), rtol=1e-5, atol=1e-5)


def test_export_and_autocast_take_operators_they_know() -> None:
    layer = _layer()
    x = torch.randn(2, 4, 9, 9).contiguous(memory_format=torch.channels_last)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), layer(x), rtol=5e-2, atol=5e-2)


def _shifted(image: Tensor, shift: Tensor) -> Tensor:
    """Whole-pixel shifts by slicing alone."""
    rows = torch.zeros_like(image)
    height, width = image.shape[2:]
    for k, (dy, dx) in enumerate(shift.long().tolist()):
        ys = slice(max(0, -dy), min(height, height - dy))
        xs = slice(max(0, -dx), min(width, width - dx))
        rows[:, k, ys, xs] = image[:, k, ys.start + dy : ys.stop + dy, xs.start + dx : xs.stop + dx]
    return rows


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("size", [4, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_integer_mode_copies_pixels(layout: torch.memory_format, size: int, dtype: torch.dtype) -> None:
    layer = ActiveShift(torch.randn(20, 2) * 1.3, integer=True)
    x = torch.randn(2, 20, size, size).to(dtype).contiguous(memory_format=layout)
    assert torch.equal(layer(x).detach(), _shifted(x, layer.shift.detach().round()))
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x).detach())


def test_integer_mode_passes_the_central_difference_straight_through() -> None:
    layer = ActiveShift(torch.randn(6, 2).double(), integer=True)
    x, weight = torch.randn(2, 6, 9, 9).double(), torch.randn(2, 6, 9, 9).double()
    (layer(x) * weight).sum().backward()
    whole = layer.shift.detach().round()
    for axis in range(2):
        one = torch.zeros(6, 2).double()
        one[:, axis] = 1
        slope = (_shifted(x, whole + one) - _shifted(x, whole - one)) / 2
        assert layer.shift.grad is not None
        torch.testing.assert_close(layer.shift.grad[:, axis], (slope * weight).sum((0, 2, 3)))


def test_integer_mode_saves_the_real_shift_and_exports_whole_constants_once_frozen() -> None:
    layer = ActiveShift(torch.tensor([[0.4, -1.6], [2.5, 0.6]]), integer=True)
    again = ActiveShift(torch.zeros(2, 2), integer=True)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.shift, layer.shift)
    x = torch.randn(1, 2, 8, 8)
    y = layer(x).detach()
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), y)
    layer.freeze()
    assert "integer" not in repr(layer)
    program = torch.export.export(layer, (x,))
    assert [n.target for n in program.graph.nodes if n.op == "call_function"] == [torch.ops.asl.active_shift.default]
    (shift,) = program.state_dict.values()
    assert torch.equal(shift, torch.tensor([[0.0, -2.0], [2.0, 1.0]]))
    assert torch.equal(program.module()(x), y)
    assert not layer.shift.requires_grad


def _smooth(*shape: int) -> Tensor:
    """Noise whose neighbouring pixels resemble each other, as in images and their features."""
    kernel = torch.exp(-(torch.arange(-4.0, 5.0).square()) / 4)
    noise = torch.randn(shape[0] * shape[1], 1, shape[2] + 8, shape[3] + 8)
    smooth = functional.conv2d(functional.conv2d(noise, kernel.view(1, 1, 9, 1)), kernel.view(1, 1, 1, 9))
    return (smooth / smooth.std()).view(shape)


def _train(layer: ActiveShift | ShiftPointwise, teacher: ActiveShift | ShiftPointwise, integer_from: float) -> float:
    """300 steps of Adam on the weights and of normalised descent on the shifts, which come to rest before the weights
    do; in integer mode from this share of the steps on. The mean squared error on held-out data."""
    steps = 300
    weights = [p for name, p in layer.named_parameters() if name != "shift"]
    optimiser = torch.optim.Adam(weights, lr=2e-2) if weights else None
    torch.manual_seed(5)
    for step in range(steps):
        layer.integer = step >= integer_from * steps
        x = _smooth(8, teacher.shift.shape[0], 16, 16)
        with torch.no_grad():
            target = teacher(x)
        layer.zero_grad()
        functional.mse_loss(layer(x), target).backward()
        with torch.no_grad():
            gradient = layer.shift.grad
            assert gradient is not None
            rate = 0.1 * _cosine(step / steps / 0.6)
            layer.shift -= rate * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
        if optimiser is not None:
            optimiser.param_groups[0]["lr"] = 2e-2 * max(_cosine(step / steps), 0.02)
            optimiser.step()
    return _error(layer, teacher)


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@torch.no_grad()
def _error(layer: ActiveShift | ShiftPointwise, teacher: ActiveShift | ShiftPointwise) -> float:
    torch.manual_seed(1)
    x = _smooth(32, teacher.shift.shape[0], 16, 16)
    return float(functional.mse_loss(layer(x), teacher(x)))


def test_integer_mode_finds_the_whole_shifts_that_made_the_data() -> None:
    true = torch.randint(-3, 4, (12, 2)).float()
    layer = ActiveShift(torch.zeros(12, 2), integer=True)
    error = _train(layer, ActiveShift(true), integer_from=0.0)
    assert torch.equal(layer.shift.detach().round(), true)
    assert error == 0


@pytest.mark.parametrize(("rows_per_channel", "integer_from", "at_most"), [(3, 0.0, 0.6), (1, 0.5, 1.0)])
def test_training_in_integer_mode_ends_better_than_rounding_afterwards(
    rows_per_channel: int, integer_from: float, at_most: float, capsys: pytest.CaptureFixture[str]
) -> None:
    # What is imitated has shifts between pixels: no student can be exact on whole ones.
    channels, rows = 12, 12 * rows_per_channel
    teacher = ShiftPointwise(torch.rand(channels, 2) * 4 - 2, torch.randn(channels, channels))
    start, weight = torch.rand(rows, 2) * 4 - 2, torch.randn(channels, rows) / rows**0.5
    if rows_per_channel == 1:
        start = start / 2
    source = torch.arange(rows) % channels
    real = ShiftPointwise(start, weight, source=source)
    whole = ShiftPointwise(start, weight, source=source)
    real_error = _train(real, teacher, integer_from=1.0)
    whole_error = _train(whole, teacher, integer_from=integer_from)
    real.integer = True
    rounded_error = _error(real, teacher)
    with capsys.disabled():
        print(  # noqa: T201
            f"\nmean squared error, {rows_per_channel} rows a channel: real shifts {real_error:.4f}, the same rounded "
            f"afterwards {rounded_error:.4f}, in integer mode from {integer_from:.0%} of the steps {whole_error:.4f}"
        )
    assert whole_error < at_most * rounded_error
