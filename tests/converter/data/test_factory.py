from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aslconvert.converter.data.load import load_dataset
from aslconvert.converter.errors import UsageError

SOURCE = """
import torch

def labelled():
    for i in range(12):
        yield torch.full((2, 3), float(i)), i % 2

def pairs():
    for i in range(12):
        yield (torch.full((2,), float(i)), torch.ones(1)), torch.zeros(4)

def named():
    return [({"a": torch.full((1,), float(i))}, None) for i in range(6)]

def ragged():
    return [(torch.ones(i), None) for i in range(1, 5)]

def empty():
    return []

def failing():
    raise RuntimeError("the disk is on fire")

def malformed():
    return [1, 2, 3]

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_data.py"
    path.write_text(SOURCE)
    return path


def test_integer_targets_are_labels(file: Path) -> None:
    data = load_dataset(f"{file}:labelled", input_names=["image"])
    assert data.inputs["image"].shape == (2, 3)
    assert data.target is None
    assert data.label is not None
    assert data.label.read(np.arange(4)).tolist() == [0, 1, 0, 1]


def test_tuples_follow_the_models_names(file: Path) -> None:
    data = load_dataset(f"{file}:pairs", input_names=["left", "right"])
    batch = data.split("heal").batch([0])
    assert [tuple(x.shape) for x in batch.inputs] == [(1, 2), (1, 1)]
    assert batch.target is not None
    assert torch.equal(batch.target, torch.zeros(1, 4))


def test_dicts_bring_their_names(file: Path) -> None:
    assert list(load_dataset(f"{file}:named").inputs) == ["a"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ragged", "data_shape"),
        ("empty", "data_empty"),
        ("failing", "data_factory"),
        ("malformed", "data_factory"),
        ("missing", "data_not_found"),
        ("number", "data_not_found"),
    ],
)
def test_factories_that_fail_say_how(file: Path, name: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_dataset(f"{file}:{name}")
    assert caught.value.code == code


@pytest.mark.parametrize("spec", ["no_such_module_here:make", "nowhere/file.py:make"])
def test_code_that_is_not_there_is_told(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_dataset(spec)
    assert caught.value.code == "data_not_found"


def test_the_number_of_inputs_must_fit(file: Path) -> None:
    with pytest.raises(UsageError, match="2 inputs, 1 are wanted") as caught:
        load_dataset(f"{file}:pairs", input_names=["only"])
    assert caught.value.code == "data_missing_input"
