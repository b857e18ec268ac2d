"""Inputs made up from batch-norm statistics bring the statistics back, class by class; without any they are refused."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from aslconvert.converter.data.inputs import InputSpec, model_inputs
from aslconvert.converter.data.split import SPLITS
from aslconvert.converter.data.synthetic import WARNING, mismatch, synthetic_dataset
from aslconvert.converter.errors import UsageError
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.load import export_model


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    """A small classifier whose statistics are those of smooth, bright images."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
    net = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    for _ in range(4):
        net(3 + nn.functional.avg_pool2d(torch.randn(32, 2, 14, 14), 3, stride=1))
    return export_model(net.eval(), (torch.zeros(2, 2, 12, 12),))


def test_the_statistics_come_back_and_classes_differ(program: ExportedProgram) -> None:
    gm, specs = graph_module(program), model_inputs(program)
    told: list[tuple[int, int]] = []
    made = synthetic_dataset(gm, specs, size=(12, 12), seed=0, samples=100, on_batch=lambda *call: told.append(call))
    assert len(made) == 128
    assert told == [(1, 2), (2, 2)]
    assert all(made.samples_by_split[name] > 0 for name in SPLITS)
    assert made.notes == (WARNING,)
    x = made.split("heal").batch(range(40)).inputs[0]
    noise = torch.randn(x.shape)
    assert mismatch(gm, [x]) < 0.1 * mismatch(gm, [noise])
    # The images that the statistics are of are bright; nothing else could have told.
    assert float(x.mean()) > 1.0
    # Each was asked for the next class. An untrained network allows little, but every sample leans to its own.
    with torch.no_grad():
        scores = gm(made.inputs[specs[0].name].read(np.arange(128)))
    own = scores[torch.arange(128), torch.arange(128) % 4]
    assert float((own - scores.mean(0)[torch.arange(128) % 4]).mean()) > 0.01


def test_the_same_seed_makes_the_same_inputs(program: ExportedProgram) -> None:
    def make(seed: int) -> torch.Tensor:
        specs = model_inputs(program)
        made = synthetic_dataset(graph_module(program), specs, size=(12, 12), seed=seed, samples=8, iterations=3)
        return made.split("test").batch([0, 1]).inputs[0]

    assert torch.equal(make(1), make(1))
    assert not torch.equal(make(1), make(2))


def test_without_statistics_nothing_is_made_up(demosaicker: ModuleType) -> None:
    program = export_model(demosaicker.Demosaicker(depth=3, width=4).eval(), (torch.rand(2, 3, 8, 8),))
    with pytest.raises(UsageError) as caught:
        synthetic_dataset(graph_module(program), model_inputs(program), size=None, seed=0)
    assert caught.value.code == "no_statistics"
    assert "--data" in caught.value.hint


@pytest.mark.parametrize(
    "spec",
    [InputSpec("x", (None, 2, None, None), torch.float32), InputSpec("x", (None, 2, 12, 12), torch.int64)],
)
def test_inputs_of_unknown_size_or_no_floats_are_refused(program: ExportedProgram, spec: InputSpec) -> None:
    with pytest.raises(UsageError) as caught:
        synthetic_dataset(graph_module(program), [spec], size=None, seed=0)
    assert caught.value.code == "synthetic_inputs"


def test_a_size_is_taken_where_it_may_vary(exported: Callable[[str], tuple[nn.Module, ExportedProgram]]) -> None:
    _, program = exported("unet")
    spec = InputSpec(model_inputs(program)[0].name, (None, 3, None, None), torch.float32)
    made = synthetic_dataset(graph_module(program), [spec], size=(32, 48), seed=0, samples=1, iterations=1)
    assert made.split("test").batch([0]).inputs[0].shape == (1, 3, 32, 48)
