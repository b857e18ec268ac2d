"""Files that ask for memory or time beyond all bounds, and files mutated at random, get a refusal and cost nothing."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from aslconvert.converter.errors import ModelRefused
from aslconvert.converter.importers.onnx.file import MAX_EXTERNAL, MAX_FILE
from aslconvert.converter.importers.onnx.load import load_onnx

Make = Callable[..., onnx.ModelProto]
node = helper.make_node
HUGE = 1 << 62


def refusal(model: onnx.ModelProto, folder: Path) -> ModelRefused:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused) as refused:
        load_onnx(path)
    return refused.value


def peak() -> int:
    """The most memory that this process has had since `memory_below` was entered, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # what the tests before have taken counts no more
    before = peak()
    yield
    assert peak() - before < limit


@pytest.mark.parametrize("times", [2, 40])
def test_tensors_that_name_one_sparse_file_again_and_again(make: Make, tmp_path: Path, times: int) -> None:
    size = MAX_EXTERNAL // 2 + 8
    with (tmp_path / "sparse.bin").open("wb") as file:
        file.truncate(size)
    names = [f"w{i}" for i in range(times)]
    nodes = [node("Add", ["x" if i == 0 else f"s{i - 1}", name], [f"s{i}"]) for i, name in enumerate(names)]
    model = make(nodes, {"x": [1]}, [f"s{times - 1}"])
    for name in names:
        # Of 64 bits, so that the number of elements alone is no reason.
        tensor = TensorProto(name=name, data_type=TensorProto.DOUBLE, dims=[size // 8])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="sparse.bin")
        model.graph.initializer.append(tensor)
    with memory_below(100 << 20):
        refused = refusal(model, tmp_path)
    assert refused.code == "too_large"
    assert str(times * size) in refused.message


def test_a_file_that_no_protobuf_can_be(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(ModelRefused) as refused:
        load_onnx(path)
    assert refused.value.code == "too_large"


BOMBS = {
    "pool": (
        [node("AveragePool", ["w"], ["big"], name="bomb", kernel_shape=[1, 1], strides=[20000] * 2, pads=[19000] * 4)],
        {"w": np.ones((1, 1, 1, 1), np.float32)},
    ),
    "crop": (
        [node("ConvTranspose", ["w", "k"], ["big"], name="bomb", strides=[40000] * 2, pads=[39999, 0, 0, 39999])],
        {"w": np.ones((1, 1, 2, 2), np.float32), "k": np.ones((1, 1, 1, 1), np.float32)},
    ),
    "resize": (
        [node("Resize", ["w", "", "", "s"], ["big"], name="bomb", mode="nearest")],
        {"w": np.ones((1, 1, 1, 3000), np.float32), "s": np.array([1, 1, 1 << 20, 1])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_large_only_on_the_way(make: Make, tmp_path: Path, name: str, known: bool) -> None:
    nodes, constants = BOMBS[name]
    constants = dict(constants)
    inputs: dict[str, Sequence[int]] = {"x": [1]}
    if not known:
        inputs["w"] = constants.pop("w").shape
    with memory_below(200 << 20):
        refused = refusal(make([*nodes, node("Add", ["x", "big"], ["y"])], inputs, ["y"], constants), tmp_path)
    assert refused.code == "too_large"
    assert "bomb" in refused.message


def test_a_window_wider_than_the_channels(make: Make, tmp_path: Path) -> None:
    model = make([node("LRN", ["x"], ["y"], size=10**9, alpha=1e9)], {"x": [1, 3, 2, 2]}, ["y"])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    x = torch.rand(1, 3, 2, 2)
    want = x / (1 + x.square().sum(1, keepdim=True)) ** 0.75
    torch.testing.assert_close(load_onnx(path).module()(x), want)
    wide = make([node("LRN", ["x"], ["y"], size=10**9)], {"x": [1, 10**5, 1, 1]}, ["y"])
    assert refusal(wide, tmp_path).code == "unsupported_attribute"


@pytest.mark.parametrize("sizes", [["a", "b", "c", "d", "e", "f", "g", "h"], [0, HUGE, HUGE], [HUGE, HUGE]])
def test_inputs_beyond_all_bounds(make: Make, tmp_path: Path, sizes: Sequence[int | str]) -> None:
    assert refusal(make([node("Relu", ["x"], ["y"])], {"x": sizes}, ["y"]), tmp_path).code == "too_large"


def test_an_empty_initialiser_beyond_all_bounds(make: Make, tmp_path: Path) -> None:
    model = make([node("Add", ["x", "w"], ["y"])], {"x": [1]}, ["y"])
    model.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[0, HUGE, HUGE]))
    assert refusal(model, tmp_path).code == "too_large"


@pytest.mark.parametrize("location", ["w" * 400, "circle.bin"])
def test_external_files_that_cannot_be_opened(make: Make, tmp_path: Path, location: str) -> None:
    os.symlink("circle.bin", tmp_path / "circle.bin")
    model = make([node("Add", ["x", "w"], ["y"])], {"x": [1]}, ["y"], {"w": np.ones(1, np.float32)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    assert refusal(model, tmp_path).code == "external_data"


@pytest.mark.parametrize(
    ("op", "inputs", "outputs"),
    [
        ("Relu", ["x"], []),
        ("Relu", ["x"], [""]),
        ("Identity", [], ["t"]),
        ("Identity", ["w"], []),
        ("Identity", ["w"], ["t", "u"]),
        ("Identity", [""], ["t"]),
        ("Relu", ["x"], ["", "t"]),
        ("Relu", ["w"], ["", "t"]),
    ],
)
def test_nodes_that_lack_operands_or_outputs(
    make: Make, tmp_path: Path, op: str, inputs: list[str], outputs: list[str]
) -> None:
    nodes = [node(op, inputs, outputs, name="odd"), node("Add", ["x", "w"], ["y"])]
    refused = refusal(make(nodes, {"x": [1]}, ["y"], {"w": np.ones(1, np.float32)}), tmp_path)
    assert refused.code == "bad_graph"
    assert "odd" in refused.message


def test_inputs_of_any_name(make: Make, tmp_path: Path) -> None:
    names = ["in", "from", "class", "lambda", "input.1", "1", "input_1", "self", "2x", "input_8", "größe"]
    nodes = [node("Sum", names, ["y"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(make(nodes, {name: [2] for name in names}, ["y"]).SerializeToString())
    values = [torch.full((2,), 2.0**i) for i in range(len(names))]
    assert load_onnx(path).module()(*values).tolist() == [2.0 ** len(values) - 1] * 2


def small(make: Make) -> bytes:
    """A convolution, arithmetic on sizes, a resize and a folded constant in under a kilobyte."""
    nodes = [
        node("Conv", ["image", "w"], ["a"], name="c", pads=[1, 1, 1, 1]),
        node("Shape", ["a"], ["s"], start=2),
        node("Mul", ["s", "two"], ["d"]),
        node("Concat", ["lead", "d"], ["t"], axis=0),
        node("Resize", ["a", "", "", "t"], ["b"], mode="linear"),
        node("Neg", ["w2"], ["n"]),
        node("MaxPool", ["b"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Add", ["p", "n"], ["y"]),
    ]
    constants = {
        "w": np.ones((2, 1, 3, 3), np.float32), "w2": np.ones((2, 1, 1), np.float32),
        "two": np.array([2, 2]), "lead": np.array([1, 2]),
    }  # fmt: skip
    return make(nodes, {"image": [1, 1, 6, 6]}, ["y"], constants).SerializeToString()


def change_size(model: onnx.ModelProto, which: int, value: int) -> None:
    """Put ``value`` in the place of one of all sizes, integers of attributes and integers of constants."""
    places: list[tuple[object, int | str]] = []
    for tensor in model.graph.initializer:
        places += [(tensor.dims, i) for i in range(len(tensor.dims))]
        if tensor.data_type == TensorProto.INT64:
            count = len(tensor.raw_data) // 8
            tensor.int64_data.extend(np.frombuffer(tensor.raw_data, np.int64).tolist())
            tensor.ClearField("raw_data")
            places += [(tensor.int64_data, i) for i in range(count)]
    for entry in model.graph.input:
        places += [(dim, "dim_value") for dim in entry.type.tensor_type.shape.dim]
    for one in model.graph.node:
        for attribute in one.attribute:
            places += [(attribute.ints, i) for i in range(len(attribute.ints))]
            places += [(attribute, "i")] if attribute.type == onnx.AttributeProto.INT else []
    target, key = places[which % len(places)]
    if isinstance(key, str):
        setattr(target, key, value)
    else:
        target[key] = value  # type: ignore[index]


SIZES = st.one_of(st.integers(-3, 9), st.sampled_from([1 << 20, 1 << 31, -(1 << 31), 1 << 40, HUGE, -HUGE, -(1 << 63)]))


def loads_or_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        program = load_onnx(path)
    except ModelRefused:
        return
    assert program.graph_signature.user_outputs


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_bytes_load_or_are_refused(make: Make, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(small(make))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    loads_or_is_refused(tmp_path / "model.onnx", bytes(content[:end]))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 99), SIZES), min_size=1, max_size=2))
def test_other_sizes_load_or_are_refused(make: Make, tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    model = onnx.load_from_string(small(make))
    for which, value in changes:
        change_size(model, which, value)
    with memory_below(1 << 30):
        loads_or_is_refused(tmp_path / "model.onnx", model.SerializeToString())
