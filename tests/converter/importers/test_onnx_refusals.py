"""Files that are damaged, hostile or beyond the importer are refused with a stable code, and nothing else happens."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from aslconvert.converter.errors import ModelRefused
from aslconvert.converter.importers.onnx.load import load_onnx

Make = Callable[..., onnx.ModelProto]


def write(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def code_of(path: Path) -> tuple[str, str]:
    with pytest.raises(ModelRefused) as refused:
        load_onnx(path)
    return refused.value.code, refused.value.message


@pytest.fixture
def conv(make: Make) -> onnx.ModelProto:
    weight = np.ones((4, 3, 3, 3), np.float32)
    node = helper.make_node("Conv", ["image", "stem.weight"], ["y"], name="stem")
    return make([node], {"image": ["N", 3, 8, 8]}, ["y"], {"stem.weight": weight})


def test_the_sound_file_is_read(conv: onnx.ModelProto, tmp_path: Path) -> None:
    program = load_onnx(write(conv, tmp_path))
    assert list(program.state_dict) == ["stem.weight"]
    assert program.module()(torch.ones(5, 3, 8, 8)).shape == (5, 4, 6, 6)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file(
    conv: onnx.ModelProto, tmp_path: Path, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(conv, tmp_path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert code_of(path)[0] in ("truncated", "not_a_model", "bad_graph")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"not a model at all\n" * 9, b"PK\x03\x04" + bytes(90), bytes(range(256)) * 4])
def test_another_kind_of_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert code_of(path)[0] in ("truncated", "not_a_model")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    assert code_of(tmp_path / "absent.onnx")[0] == "not_found"
    (tmp_path / "folder.onnx").mkdir()
    assert code_of(tmp_path / "folder.onnx")[0] == "not_a_model"


def test_random_damage_never_passes_as_another_error(conv: onnx.ModelProto, tmp_path: Path) -> None:
    path = write(conv, tmp_path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    # The weights are most of the file; the damage goes where the structure is.
    places = [p for p in range(len(whole)) if not whole.find(b"stem.weightJ") < p < len(whole) - 60]
    for _ in range(60):
        data = bytearray(whole)
        for place in generator.choice(places, 3):
            data[place] = generator.integers(256)
        path.write_bytes(bytes(data))
        try:
            load_onnx(path)
        except ModelRefused:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("opset", [9, 12, 21])
def test_an_opset_beyond_what_is_read(make: Make, tmp_path: Path, opset: int) -> None:
    model = make([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 2]}, ["y"], opset=opset)
    code, message = code_of(write(model, tmp_path))
    assert code == "unsupported_opset"
    assert str(opset) in message


@pytest.mark.parametrize(
    ("op", "domain", "attributes", "code"),
    [
        ("NonMaxSuppression", "", {}, "unsupported_operator"),
        ("FusedConv", "com.microsoft", {}, "unsupported_operator"),
        ("Gelu", "", {}, "unsupported_operator"),  # of opset 20, in a file of opset 18
        ("LSTM", "", {"hidden_size": 3}, "unsupported_operator"),
        ("Relu", "", {"slope": 0.1}, "unsupported_attribute"),
        ("MaxPool", "", {"kernel_shape": [2, 2], "storage_order": 1}, "unsupported_attribute"),
        ("AveragePool", "", {"kernel_shape": [2, 2], "dilations": [2, 2]}, "unsupported_attribute"),
        ("Resize", "", {"antialias": 1}, "unsupported_attribute"),
        ("Softmax", "", {"axis": 9}, "bad_graph"),
        ("MaxPool", "", {"kernel_shape": [2]}, "bad_graph"),
        ("MaxPool", "", {"kernel_shape": [0, 2]}, "bad_graph"),
        ("Flatten", "", {"axis": "first"}, "bad_graph"),
        ("MatMul", "", {}, "bad_graph"),
    ],
)
def test_an_operator_beyond_what_is_read(
    make: Make, tmp_path: Path, op: str, domain: str, attributes: dict[str, Any], code: str
) -> None:
    node = helper.make_node(op, ["x"], ["y"], name="the_node", domain=domain, **attributes)
    model = make([node], {"x": [1, 2, 4, 4]}, ["y"])
    got, message = code_of(write(model, tmp_path))
    assert got == code
    assert "the_node" in message
    assert op in message


def test_control_flow_is_refused_by_name(make: Make, tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch)
    model = make([node], {"x": [2], "c": []}, ["y"], types={"c": TensorProto.BOOL})
    code, message = code_of(write(model, tmp_path))
    assert (code, "choice" in message, "If" in message) == ("unsupported_operator", True, True)


def test_a_shape_from_the_input_is_refused(make: Make, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "sizes"], ["y"], name="reshape"),
    ]
    code, message = code_of(write(make(nodes, {"x": [2]}, ["y"]), tmp_path))
    assert (code, "reshape" in message) == ("dynamic_value", True)


@pytest.mark.parametrize(
    ("op", "sizes", "attributes"),
    [
        ("Expand", [1 << 20, 1 << 20], {}),
        ("ConstantOfShape", [1 << 20, 1 << 20], {}),
        ("Tile", [1 << 20, 1 << 20], {}),
        ("Pad", [0, 0, 1 << 40, 1 << 40], {}),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_sizes_beyond_all_bounds_take_no_memory(
    make: Make, tmp_path: Path, op: str, sizes: list[int], attributes: dict[str, Any], known: bool
) -> None:
    constants = {"sizes": np.array(sizes, np.int64), "w": np.ones((1, 1), np.float32)}
    first = "w" if known else "x"
    operands = ["sizes"] if op == "ConstantOfShape" else [first, "sizes"]
    nodes = [
        helper.make_node(op, operands, ["big"], name="bomb", **attributes),
        helper.make_node("Mul", ["x", "big"], ["y"]),
    ]
    code, message = code_of(write(make(nodes, {"x": [1, 1]}, ["y"], constants), tmp_path))
    assert code in ("too_large", "bad_graph")
    assert "bomb" in message


def test_a_chain_of_doublings_is_stopped(make: Make, tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", [f"w{i}", f"w{i}"], [f"w{i + 1}"], name=f"n{i}", axis=0) for i in range(40)]
    nodes.append(helper.make_node("Add", ["x", "w40"], ["y"]))
    model = make(nodes, {"x": [1]}, ["y"], {"w0": np.ones(1 << 16, np.float32)})
    assert code_of(write(model, tmp_path))[0] == "too_large"


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 33, 1 << 33], [-4], [3, 3]])
def test_an_initialiser_whose_shape_lies(conv: onnx.ModelProto, tmp_path: Path, dims: list[int]) -> None:
    del conv.graph.initializer[0].dims[:]
    conv.graph.initializer[0].dims.extend(dims)
    code, message = code_of(write(conv, tmp_path))
    assert code in ("too_large", "bad_graph")
    assert "stem.weight" in message


def external(model: onnx.ModelProto, location: str, *, offset: int = 0, length: int = 4 * 3 * 9 * 4) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


def test_external_data_beside_the_model_is_read(conv: onnx.ModelProto, tmp_path: Path) -> None:
    content = np.arange(4 * 3 * 9, dtype=np.float32)
    (tmp_path / "weights.bin").write_bytes(bytes(8) + content.tobytes())
    external(conv, "weights.bin", offset=8)
    weight = load_onnx(write(conv, tmp_path)).state_dict["stem.weight"]
    assert torch.equal(weight.flatten(), torch.from_numpy(content))


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/hostname", "", "absent.bin", "link.bin", "a/../../secret.bin"]
)
def test_external_data_elsewhere_is_refused(conv: onnx.ModelProto, tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    folder = tmp_path / "model"
    folder.mkdir()
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    external(conv, location)
    code, message = code_of(write(conv, folder))
    assert (code, "stem.weight" in message) == ("external_data", True)


@pytest.mark.parametrize(("offset", "length"), [(-8, 432), (0, 431), (800, 432), (0, 1 << 40)])
def test_external_data_that_does_not_fit(conv: onnx.ModelProto, tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(1000))
    external(conv, "weights.bin", offset=offset, length=length)
    assert code_of(write(conv, tmp_path))[0] == "external_data"


def test_graphs_that_contradict_themselves(make: Make, tmp_path: Path) -> None:
    relu = helper.make_node
    cases = {
        "comes from nowhere": make([relu("Relu", ["ghost"], ["y"], name="n")], {"x": [2]}, ["y"]),
        "no node computes": make([relu("Relu", ["x"], ["z"])], {"x": [2]}, ["y"]),
        "exists already": make([relu("Relu", ["x"], ["y"]), relu("Abs", ["x"], ["y"])], {"x": [2]}, ["y"]),
        "no input": make([relu("Relu", ["c"], ["y"])], {}, ["y"], {"c": np.ones(2, np.float32)}),
    }
    for says, model in cases.items():
        code, message = code_of(write(model, tmp_path))
        assert code == "bad_graph"
        assert says in message


def test_names_that_clash_with_the_module_or_each_other_are_kept_apart(make: Make, tmp_path: Path) -> None:
    names = ["forward", "a", "a.b", "training", "we/ird name", "_parameters", "a..c"]
    nodes, last = [], "x"
    for i, name in enumerate(names):
        nodes.append(helper.make_node("Add", [last, name], [f"s{i}"]))
        last = f"s{i}"
    constants = {name: np.full(3, 10.0**i, np.float32) for i, name in enumerate(names)}
    program = load_onnx(write(make(nodes, {"x": ["N", 3]}, [last], constants), tmp_path))
    assert len(program.state_dict) == len(names)
    assert torch.equal(program.module()(torch.zeros(4, 3)), torch.full((4, 3), 1111111.0))
