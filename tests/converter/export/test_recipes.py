"""Recipes of quantising: what each step keeps, that it helps where it should, and how the search decides."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from aslconvert.converter.errors import InternalError
from aslconvert.converter.export import recipes
from aslconvert.converter.export.bias import corrected
from aslconvert.converter.export.equalise import equalised
from aslconvert.converter.export.int8 import int8_bytes
from aslconvert.converter.export.kept_layers import costly_layers, with_activations
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.onnx_graph import OnnxGraph, enough, fixed_sizes, stored_bytes, watch
from aslconvert.converter.export.recipes import Recipe, distance, find_recipe, outputs, quantise
from aslconvert.converter.ir.load import export_model

Batches = list[tuple[Tensor, ...]]


class Uneven(nn.Module):
    """Convolutions whose channels differ a thousandfold in range, and a last layer with large and small outputs.

    A depthwise layer, as lowering makes them, and a residual sum, across which no channel may be rescaled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.mix, self.side, self.last = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)
        factor = torch.logspace(-1.5, 1.5, 16)[:, None, None, None]
        with torch.no_grad():
            self.first.weight *= factor
            self.first.bias *= factor.flatten()
            self.depthwise.weight /= factor

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.mix(self.depthwise(torch.relu(self.first(x)))))
        y: Tensor = self.last(x + torch.relu(self.side(x)))
        return y


@pytest.fixture(scope="module")
def model() -> bytes:
    torch.manual_seed(0)
    return onnx_bytes(export_model(Uneven().eval(), (torch.randn(2, 3, 12, 12),)))


def samples(seed: int, count: int = 4) -> Batches:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 3, 12, 12, generator=generator),) for _ in range(count)]


def test_equalising_keeps_the_function_and_halves_the_error_in_8_bits(model: bytes) -> None:
    exact = outputs(model, samples(1))
    even = equalised(model, samples(0))
    # float32 rounds the products of other factors otherwise.
    assert distance(outputs(even, samples(1)), exact) < 1e-5
    graphs = OnnxGraph(model), OnnxGraph(even)
    moved = [
        node.name
        for node, other in zip(graphs[0].linear(), graphs[1].linear(), strict=True)
        if not np.array_equal(graphs[0].read(node.input[1]), graphs[1].read(other.input[1]))
    ]
    # From the first to the depthwise one, and on to the mix; the sum and the output hold the others in place.
    assert moved == [node.name for node in graphs[0].linear()[:3]]
    plain = distance(outputs(int8_bytes(model, samples(0)), samples(1)), exact)
    assert distance(outputs(int8_bytes(even, samples(0)), samples(1)), exact) < 0.5 * plain


def test_means_come_back_by_the_biases(model: bytes) -> None:
    data = int8_bytes(model, samples(0))

    def means(file: bytes) -> np.ndarray:  # type: ignore[type-arg]  # of float64
        names = [node.output[0] for node in OnnxGraph(file).linear()]
        seen = list(watch(OnnxGraph(file).model, names, samples(0)))
        return np.concatenate([np.mean([v[name].mean(axis=(0, 2, 3)) for v in seen], axis=0) for name in names])

    wanted = means(model)
    before, after = (float(np.abs(means(file) - wanted).max()) for file in (data, corrected(model, data, samples(0))))
    assert after < 0.1 * before


def test_the_layers_that_cost_most_are_named_and_keep_their_activation() -> None:
    net = Uneven().eval()
    with torch.no_grad():
        # One output far from the others: the step that its range asks for rounds those off.
        net.last.bias[0] += 50
    model = equalised(onnx_bytes(export_model(net, (torch.randn(2, 3, 12, 12),))), samples(0))
    exact = outputs(model, samples(1))
    data = int8_bytes(model, samples(0))
    whole = distance(outputs(data, samples(1)), exact)
    kept = costly_layers(model, data, samples(1), exact)
    layers = [node.name for node in OnnxGraph(model).linear()]
    assert kept == (layers[-1],)
    assert distance(outputs(int8_bytes(model, samples(0), kept=kept), samples(1)), exact) < 0.5 * whole
    found = find_recipe(model, samples(0), samples(1), vnni=True)
    assert found.mixed is not None
    assert found.mixed.recipe.kept == kept
    # Rounded before the activation, its output would need a range for what the activation cuts off.
    assert with_activations(model, kept) == kept
    assert len(with_activations(model, layers[:1])) == 2


def test_the_search_keeps_what_helps_and_repeats_to_the_byte(model: bytes) -> None:
    found = find_recipe(model, samples(0), samples(1), vnni=True)
    assert found.plain.recipe == Recipe()
    assert found.best.recipe.equalised
    assert found.best.error < 0.5 * found.plain.error
    assert found.left_out == {}
    assert quantise(model, samples(0), found.best.recipe) == found.best.data
    if found.mixed is not None:
        assert found.mixed.recipe.kept
        assert found.mixed.error < 0.9 * found.best.error
    # Rounded to 7 bits weights lose more; only a processor that saturates can gain by it.
    seven = quantise(model, samples(0), dataclasses.replace(found.best.recipe, seven_bits=True))
    assert distance(outputs(seven, samples(1)), outputs(model, samples(1))) > found.best.error


def test_without_time_the_plain_recipe_is_left(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_recipe(model, samples(0), samples(1), vnni=False, seconds=-1.0)
    assert found.best is found.plain
    assert found.mixed is None
    assert {"min-max, 7-bit weights", "min-max, equalised", "min-max, bias corrected"} < set(found.left_out)
    assert all("no time" in reason for reason in found.left_out.values())

    def fails(*_: object, **__: object) -> bytes:
        raise InternalError("int8_failed", "It cannot.")

    monkeypatch.setattr(recipes, "int8_bytes", fails)
    with pytest.raises(InternalError, match="It cannot"):
        find_recipe(model, samples(0), samples(1), vnni=True)


def test_a_recipe_says_what_it_is() -> None:
    assert Recipe().name == "min-max"
    assert Recipe(equalised=True, corrected=True, kept=("a", "b")).name == (
        "min-max, equalised, bias corrected, 2 layers in float"
    )
    assert Recipe(seven_bits=True, kept=("a",)).name == "min-max, 7-bit weights, 1 layer in float"


def test_sizes_are_fixed_and_storage_counted(model: bytes) -> None:
    fixed = onnx.load_from_string(fixed_sizes(model, [(1, 3, 20, 12)]))
    assert [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 20, 12]
    assert stored_bytes(int8_bytes(model, samples(0))) < 0.6 * stored_bytes(model)


@pytest.mark.parametrize(("shape", "count"), [((1, 3, 512, 512), 16), ((1, 3, 64, 64), 64), ((1, 10), 256)])
def test_small_samples_are_read_in_greater_number(shape: tuple[int, ...], count: int) -> None:
    assert enough([(torch.zeros(shape),)]) == count
