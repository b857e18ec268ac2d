"""What the ops promise beyond numbers: dispatcher rules, gradients, borders, threads, and clear errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import aslconvert.kernels as kernels

OPS = torch.ops.asl


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _fractional(rows: int, axes: int) -> Tensor:
    """Shifts well inside a pixel, where the sample is differentiable."""
    whole = torch.randint(-2, 3, (rows, axes)).double()
    return whole + 0.2 + 0.6 * torch.rand(rows, axes, dtype=torch.double)


SOURCE = torch.tensor([0, 2, 2, 1])


@pytest.mark.parametrize("spatial", [(9,), (6, 5), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck_at_fractional_shifts(spatial: tuple[int, ...], stride: int) -> None:
    axes = len(spatial)
    x = torch.randn(2, 3, *spatial, dtype=torch.double, requires_grad=True)
    shift = _fractional(4, axes).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: kernels.active_shift(a, b, source=SOURCE, stride=[stride] * axes), (x, shift), fast_mode=axes == 3
    )


def test_gradient_at_a_whole_shift_is_the_central_difference() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    shift = torch.tensor([[1.0, 0.0], [0.0, -2.0], [0.5, 1.0]], dtype=torch.double)
    grad = torch.randn(2, 3, 8, 8, dtype=torch.double)
    _, actual = OPS.active_shift_backward(grad, x, shift, None, [1, 1], [-1, -1], False, True)
    step = 1e-6
    for axis in range(2):
        moved = torch.zeros_like(shift)
        moved[:, axis] = step
        slope = (kernels.active_shift(x, shift + moved) - kernels.active_shift(x, shift - moved)) / (2 * step)
        torch.testing.assert_close(actual[:, axis], (slope * grad).sum((0, 2, 3)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 7, 6, dtype=dtype)
    shift = _fractional(4, 2).to(dtype)
    last = x.contiguous(memory_format=torch.channels_last)
    for image in (x, last):
        leaves = (image.clone().requires_grad_(), shift.clone().requires_grad_())
        torch.library.opcheck(OPS.active_shift.default, (*leaves, SOURCE, [2, 1], [-1, 0]))
        grad = torch.randn(2, 4, 7, 6, dtype=dtype)
        torch.library.opcheck(
            OPS.active_shift_backward.default, (grad, image, shift, SOURCE, [1, 1], [-1, -1], True, True)
        )
        weight, bias = torch.randn(5, 4, dtype=dtype), torch.randn(5, dtype=dtype)
        residual = torch.randn(2, 5, 7, 6, dtype=dtype)
        packed = OPS.pack_pointwise(weight)
        torch.library.opcheck(OPS.pack_pointwise.default, (weight,))
        for added in (None, residual):
            rest = (bias, [1, 1], [-1, -1], True, added)
            torch.library.opcheck(OPS.shift_pointwise.default, (image, shift, SOURCE, weight, *rest))
            torch.library.opcheck(OPS.shift_pointwise_packed.default, (image, shift, SOURCE, packed, 5, *rest))


def test_all_taps_as_rows_are_the_convolution() -> None:
    x = torch.randn(2, 3, 9, 11, dtype=torch.double)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.double)
    taps = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    for stride, padding, dilation in ((1, 1, 1), (2, 1, 1), (1, 0, 1), (2, 3, 2)):
        expected = functional.conv2d(x, weight, stride=stride, padding=padding, dilation=dilation)
        actual = kernels.shift_pointwise(
            x,
            (taps * dilation - padding).repeat(3, 1),
            weight.flatten(1),
            source=torch.arange(3).repeat_interleave(9),
            stride=[stride] * 2,
            delta=[2 * padding - dilation * 2 - 1] * 2,
        )
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [7, 40])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_pixels_without_a_tap_are_never_read(size: int, layout: torch.memory_format) -> None:
    x = torch.randn(1, 2, size, size)
    x[:, :, :, 0] = torch.nan
    x[:, :, 0] = torch.inf
    shift = torch.tensor([[1.0, 1.0], [1.5, 1.0]])
    x = x.contiguous(memory_format=layout)
    y = kernels.active_shift(x, shift)
    assert torch.isfinite(y).all()
    assert (y[:, :, -1] == 0).all()
    assert (y[:, :, :, -1] == 0).all()
    assert torch.isfinite(kernels.shift_pointwise(x, shift, torch.eye(2))).all()


@pytest.mark.parametrize("size", [9, 40])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_where_no_pixel_was_read_reaches_nothing(size: int, bad: float) -> None:
    grad = torch.randn(1, 2, size, size)
    grad[..., -3:] = bad
    shift = torch.tensor([[0.5, 3.5], [2.0, 4.0]])
    grad[:, 1, -2:] = bad
    x = torch.randn(1, 2, size, size)
    grad_input, grad_shift = OPS.active_shift_backward(grad, x, shift, None, [1, 1], [-1, -1], True, True)
    assert torch.isfinite(grad_input).all()
    # At a whole shift the central difference reads one pixel further back on either side.
    assert torch.isfinite(grad_shift[0]).all()


@pytest.mark.usefixtures("_threads_restored")
def test_training_ops_do_not_depend_on_the_number_of_threads() -> None:
    x, grad = torch.randn(3, 16, 33, 31), torch.randn(3, 48, 33, 31)
    shift, source = torch.randn(48, 2), torch.randint(0, 16, (48,))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = OPS.active_shift(x, shift, source, [1, 1], [-1, -1])
        results.append((y, *OPS.active_shift_backward(grad, x, shift, source, [1, 1], [-1, -1], True, True)))
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


@pytest.mark.usefixtures("_threads_restored")
def test_fused_op_agrees_over_threads() -> None:
    shift, weight = torch.randn(16, 2), torch.randn(8, 16)
    for shape in ((1, 16, 5, 5), (7, 16, 9, 9), (1, 16, 120, 90)):
        x = torch.randn(shape)
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(kernels.shift_pointwise(x, shift, weight, relu=True))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_second_derivative_and_gradient_of_the_fused_op_are_refused() -> None:
    x = torch.randn(1, 2, 5, 5, requires_grad=True)
    shift = torch.full((2, 2), 0.5, requires_grad=True)
    (first,) = torch.autograd.grad(kernels.active_shift(x, shift).square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        first.sum().backward()
    with pytest.raises(NotImplementedError, match="inference"):
        kernels.shift_pointwise(x, shift, torch.eye(2))


X, SHIFT = torch.randn(1, 3, 6, 6), torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.randn(3, 6), SHIFT, None, [1, 1], [-1, -1]), "1 to 3 spatial axes"),
        ((X.half(), SHIFT, None, [1, 1], [-1, -1]), "float32, float64 or bfloat16"),
        ((X, torch.zeros(3, 3), None, [1, 1], [-1, -1]), r"shift must be \[K, 2\]"),
        ((X, SHIFT.long(), None, [1, 1], [-1, -1]), "shift must be float32"),
        ((X, torch.full((3, 2), torch.nan), None, [1, 1], [-1, -1]), "not finite"),
        ((X, torch.zeros(4, 2), None, [1, 1], [-1, -1]), "must be the channels of x"),
        ((X, SHIFT, torch.tensor([0, 1, 3]), [1, 1], [-1, -1]), r"source must lie in \[0, 3\)"),
        ((X, SHIFT, torch.tensor([0, 1, -1]), [1, 1], [-1, -1]), r"source must lie in \[0, 3\)"),
        ((X, SHIFT, torch.tensor([0, 1]), [1, 1], [-1, -1]), r"source must be \[K\]"),
        ((X, SHIFT, torch.zeros(3), [1, 1], [-1, -1]), "source must be int64"),
        ((X, SHIFT, None, [0, 1], [-1, -1]), "stride must be at least 1"),
        ((X, SHIFT, None, [1], [-1, -1]), "one entry per spatial axis"),
        ((X, SHIFT, None, [1, 1], [-7, -1]), "output would be empty"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        OPS.active_shift(*arguments)
    with pytest.raises(RuntimeError, match=message):
        kernels.reference.active_shift(*arguments)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (torch.zeros(4, 2), None),
        (torch.zeros(4), None),
        (torch.zeros(4, 3).double(), None),
        (torch.zeros(4, 3), torch.zeros(3)),
        (torch.zeros(4, 3), torch.zeros(4).double()),
    ],
)
def test_bad_weights_are_named(weight: Tensor, bias: Tensor | None) -> None:
    for op in (OPS.shift_pointwise, kernels.reference.shift_pointwise):
        with pytest.raises(RuntimeError, match="shift pointwise: "):
            op(X, SHIFT, None, weight, bias, [1, 1], [-1, -1], False)


def test_bad_gradient_is_named() -> None:
    with pytest.raises(RuntimeError, match="grad must"):
        OPS.active_shift_backward(torch.zeros(1, 3, 6, 5), X, SHIFT, None, [1, 1], [-1, -1], True, True)


def test_empty_batches_and_rows() -> None:
    assert kernels.active_shift(X[:0], SHIFT).shape == (0, 3, 6, 6)
    nothing = torch.zeros(0, 2)
    assert kernels.active_shift(X, nothing, source=torch.zeros(0, dtype=torch.int64)).shape == (1, 0, 6, 6)
    y = kernels.shift_pointwise(
        X, nothing, torch.zeros(4, 0), source=torch.zeros(0, dtype=torch.int64), bias=torch.arange(4.0)
    )
    assert torch.equal(y, torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 6, 6))


def test_nothing_to_compute_is_not_refused_for_its_size() -> None:
    x, stride, delta = torch.zeros(0, 3, 7), [1000], [2**31 - 1]
    y = OPS.active_shift(x, torch.zeros(3, 1), None, stride, delta)
    assert y.shape == (0, 3, 2147484)
    assert OPS.shift_pointwise(x, torch.zeros(3, 1), None, torch.zeros(2, 3), None, stride, delta, False).shape[1] == 2
    grads = OPS.active_shift_backward(y, x, torch.ones(3, 1), None, stride, delta, True, True)
    assert grads[0].shape == x.shape
    assert torch.equal(grads[1], torch.zeros(3, 1))
    none, rows = torch.zeros(2, 0, 2147484), torch.zeros(0, dtype=torch.int64)
    grad_input, _ = OPS.active_shift_backward(none, X[0, :2, :4], torch.zeros(0, 1), rows, stride, delta, True, True)
    assert torch.equal(grad_input, torch.zeros(2, 6, 6)[:, :4])


@pytest.mark.parametrize(
    ("x", "weight", "delta"),
    [
        (torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1), [2**31 - 1] * 3),
        (torch.zeros(0, 1, 1, 1, 1), torch.zeros(1, 1), [2**31 - 1] * 3),
        (torch.zeros(1, 1, 2, 3, 6), torch.zeros(1, 1).expand(2**62, 1), [-1] * 3),
        (torch.zeros(1, 1, 1, 1, 0).expand(2**62, 1, 1, 1, 0), torch.zeros(4, 1), [-1, -1, 0]),
    ],
    ids=["image", "image of no batch", "channels", "batch"],
)
def test_an_output_that_cannot_be_counted_is_refused(x: Tensor, weight: Tensor, delta: list[int]) -> None:
    refused = pytest.raises(RuntimeError, match=r"more elements than can be counted|not enough memory")
    with refused:
        OPS.shift_pointwise(x, torch.zeros(1, 3), None, weight, None, [1] * 3, delta, False)
    if len(weight) <= 4:
        rows, source = torch.zeros(len(weight), 3), torch.zeros(len(weight), dtype=torch.int64)
        with refused:
            OPS.active_shift(x, rows, source, [1] * 3, delta)


def test_far_shifts_are_zero() -> None:
    for far in (1e4, -1e4, 3e38, -3e38):
        assert (kernels.active_shift(X, torch.full((3, 2), far)) == 0).all()


def test_export_keeps_the_op() -> None:
    layer = kernels.ActiveShift(torch.full((3, 2), 0.5), source=torch.tensor([2, 1, 0]))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(layer, (torch.cat([X, X]),), dynamic_shapes=({0: batch},))
    assert any(node.target is OPS.active_shift.default for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(X), layer(X))


def test_layer_trains_its_shift() -> None:
    layer = kernels.ActiveShift.random(3)
    assert layer.shift.shape == (3, 2)
    assert layer.shift.abs().max() <= 1
    layer(X).square().sum().backward()
    assert layer.shift.grad is not None
    assert layer.shift.grad.abs().sum() > 0
