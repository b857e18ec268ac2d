"""Numbers that a graph computes of sizes round and divide as ONNX Runtime has them, at sizes known and dynamic."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from aslconvert.converter.importers.onnx.load import load_onnx
from aslconvert.converter.importers.onnx.values import SMALL, Host, rounds_alike
from aslconvert.converter.ir.dims import dynamic_axes

node = helper.make_node
FIXED, DYNAMIC = [1, 3, 10, 12], ["N", 3, "H", "W"]
INT, FLOAT = TensorProto.INT64, TensorProto.FLOAT
CONSTANTS = {
    "zero": np.array([0]), "two": np.array([2]), "many": np.array([17]), "seven": np.array([0.7], np.float32),
    "half": np.array([0.5], np.float32), "pair": np.array([2], np.float32),
}  # fmt: skip
HEIGHT = [node("Shape", ["x"], ["size"], start=2, end=3)]
WIDE = [*HEIGHT, node("Cast", ["size"], ["wide"], to=FLOAT)]
CASES = {
    "a tensor by a size": ([*HEIGHT, node("Div", ["whole", "size"], ["y"])], True),
    "towards zero": ([*HEIGHT, node("Sub", ["size", "many"], ["d"]), node("Div", ["d", "two"], ["y"])], True),
    "floor, then a fraction": (
        [*WIDE, node("Mul", ["wide", "half"], ["p"]), node("Floor", ["p"], ["f"]), node("Div", ["f", "pair"], ["y"])],
        True,
    ),
    "ceiling, then a fraction": (
        [*WIDE, node("Mul", ["wide", "half"], ["p"]), node("Ceil", ["p"], ["f"]), node("Div", ["f", "pair"], ["y"])],
        True,
    ),
    "single precision": (
        [
            *WIDE, node("Mul", ["wide", "seven"], ["p"]), node("Floor", ["p"], ["f"]),
            node("Cast", ["f"], ["i"], to=INT), node("Slice", ["x", "zero", "i", "two"], ["y"]),
        ],
        False,
    ),
    "a scale that rounds": ([node("Resize", ["x", "", "scales"], ["y"], mode="nearest")], False),
}  # fmt: skip
WHOLE = ("a tensor by a size", "towards zero")


def built(make: Callable[..., onnx.ModelProto], name: str, shape: Sequence[int | str], path: Path) -> onnx.ModelProto:
    nodes, _ = CASES[name]
    inputs: dict[str, Sequence[int | str]] = {"x": shape}
    if name == "a tensor by a size":
        inputs["whole"] = [5]
    used = {operand for one in nodes for operand in one.input}
    constants = {key: value for key, value in CONSTANTS.items() if key in used}
    if "scales" in used:
        constants["scales"] = np.array([1, 1, 0.7, 0.7], np.float32)
    # The image must be used, so that its sizes are those of an input.
    nodes = [*nodes, node("Identity", ["x"], ["same"])]
    types = {"whole": INT, "y": INT if name in WHOLE else FLOAT}
    model = make(nodes, inputs, ["y", "same"], constants, types=types)
    path.write_bytes(model.SerializeToString())
    return model


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])
def test_it_computes_what_onnx_runtime_computes(
    name: str,
    shape: Sequence[int | str],
    tmp_path: Path,
    make: Callable[..., Any],
    reference: Callable[..., Any],
    distance: Callable[..., float],
) -> None:
    path = tmp_path / "model.onnx"
    model = built(make, name, shape, path)
    program = load_onnx(path)
    sizes = (10, 12)
    if shape is DYNAMIC:
        kept = dynamic_axes(program)["x"]
        assert (2 in kept) is CASES[name][1]
        sizes = (61, 90) if 2 in kept else (224, 224)
    inputs = [torch.rand(2 if shape is DYNAMIC else 1, 3, *sizes)]
    if name == "a tensor by a size":
        inputs.append(torch.tensor([-130, -1, 0, 53, 200]))
    assert distance(program.module()(*inputs), reference(model, inputs)) <= 1e-5  # of float32 sums in another order


def test_a_vector_of_zeros_is_normalised_to_itself(
    tmp_path: Path, make: Callable[..., Any], reference: Callable[..., Any], distance: Callable[..., float]
) -> None:
    for p in (1, 2):
        model = make([node("LpNormalization", ["x"], ["y"], axis=1, p=p)], {"x": [2, 4]}, ["y"])
        path = tmp_path / f"{p}.onnx"
        path.write_bytes(model.SerializeToString())
        x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 3.0, -4.0]], requires_grad=True)
        y = load_onnx(path).module()(x)
        assert distance(y, reference(model, [x.detach()])) <= 1e-6  # of one division
        y.square().sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_the_remainder_of_a_constant(
    tmp_path: Path, make: Callable[..., Any], reference: Callable[..., Any], distance: Callable[..., float]
) -> None:
    model = make([node("Mod", ["c", "x"], ["y"], fmod=1)], {"x": [5]}, ["y"], {"c": np.float32(-2.5)})
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    x = torch.tensor([0.7, -0.4, 3.0, 1.25, -2.0])
    assert distance(load_onnx(path).module()(x), reference(model, [x])) == 0


def test_which_scales_round_alike() -> None:
    assert all(map(rounds_alike, (2.0, 0.5, 0.25, 3.0)))
    assert not rounds_alike(float(np.float32(0.7)))


def test_the_numbers_of_a_shape_are_bounded() -> None:
    row = Host.of([[1] * SMALL])
    with pytest.raises(ValueError, match="are the most"):
        row.map(lambda a, b: a + b, Host.of([[1], [2]]))
    with pytest.raises(ValueError, match="are the most"):
        Host.of([1] * (SMALL + 1))
