"""Every operator against ONNX Runtime, at the sizes and attributes where the two could differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from aslconvert.converter.importers.onnx.file import DTYPES, read_graph
from aslconvert.converter.importers.onnx.load import example_inputs
from aslconvert.converter.importers.onnx.module import build
from aslconvert.converter.importers.onnx.registry import known_operators

TOLERANCE = 1e-5  # of float32 sums in another order
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@dataclass(frozen=True)
class Case:
    """One node: its operator, the shape of its first input, and the constants that follow."""

    op: str
    shape: Sequence[int]
    constants: Sequence[np.ndarray | None] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 18
    outputs: int = 1
    positive: bool = False
    kind: int = TensorProto.FLOAT

    def __str__(self) -> str:
        told = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        return f"{self.op}-{self.opset}-{'x'.join(map(str, self.shape))}-{told}"


def case(op: str, shape: Sequence[int], *constants: np.ndarray | None, **rest: Any) -> Case:
    own = {name: rest.pop(name) for name in ("opset", "outputs", "positive", "kind") if name in rest}
    return Case(op, shape, constants, rest, **own)


IMAGE = (2, 6, 9, 11)
CASES = [
    case("Conv", IMAGE, floats(4, 6, 3, 3), floats(4), pads=[1, 1, 1, 1], strides=[2, 1]),
    case("Conv", IMAGE, floats(4, 3, 3, 3), pads=[0, 1, 2, 1], group=2, dilations=[2, 1]),
    case("Conv", IMAGE, floats(6, 1, 5, 4), group=6, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, floats(4, 6, 2, 4), auto_pad="SAME_LOWER"),
    case("Conv", IMAGE, floats(4, 6, 3, 3), auto_pad="VALID", kernel_shape=[3, 3]),
    case("Conv", (2, 6, 9), floats(4, 6, 3), pads=[2, 1]),
    case("Conv", (1, 3, 5, 6, 7), floats(4, 3, 3, 2, 1), pads=[1, 0, 0, 1, 1, 0]),
    case("ConvTranspose", IMAGE, floats(6, 4, 3, 3), floats(4), strides=[2, 2], output_padding=[1, 1]),
    case("ConvTranspose", IMAGE, floats(6, 2, 3, 3), strides=[2, 3], pads=[1, 0, 0, 2], group=2, dilations=[2, 1]),
    case("ConvTranspose", IMAGE, floats(6, 4, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", IMAGE, floats(6, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", IMAGE, floats(6, 4, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    case("ConvTranspose", IMAGE, floats(6, 4, 3, 3), strides=[2, 2], output_shape=[18, 22]),
    case("ConvTranspose", (2, 6, 9), floats(6, 4, 3), strides=[2]),
    *[
        case("MaxPool", (1, 2, *size), kernel_shape=[3, 2], strides=[2, 3], pads=pads, ceil_mode=ceil)
        for size in ((9, 11), (10, 12), (7, 13))
        for pads in ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0])
        for ceil in (0, 1)
    ],
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], dilations=[2, 2], pads=[2, 2, 2, 2]),
    case("MaxPool", (2, 3, 9), kernel_shape=[3], strides=[2]),
    *[
        case(
            "AveragePool", (1, 2, *size),
            kernel_shape=[3, 2], strides=[2, 3], pads=pads, ceil_mode=ceil, count_include_pad=count, opset=opset,
        )
        for size in ((9, 11), (10, 12), (7, 13))
        for pads in ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0])
        for ceil in (0, 1)
        for count in (0, 1)
        for opset in ((13, 19) if size == (7, 13) else (19,))
    ],
    case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("GlobalAveragePool", IMAGE),
    case("GlobalMaxPool", IMAGE),
    case("BatchNormalization", IMAGE, floats(6), floats(6), floats(6), abs(floats(6)) + 0.1, epsilon=1e-3, opset=15),
    case("InstanceNormalization", IMAGE, floats(6), floats(6), epsilon=1e-3),
    case("InstanceNormalization", (1, 6, 1, 1), floats(6), floats(6)),
    case("LayerNormalization", IMAGE, floats(9, 11), floats(9, 11), axis=2),
    case("LayerNormalization", IMAGE, floats(11), axis=-1, epsilon=1e-3),
    case("GroupNormalization", IMAGE, floats(3), floats(3), num_groups=3),
    case("GroupNormalization", (1, 3, 1, 1), floats(3), floats(3), num_groups=3),
    case("LRN", IMAGE, size=3, alpha=0.5, bias=2.0),
    case("LRN", IMAGE, size=5, alpha=0.5, beta=0.6),
    case("LRN", (1, 3, 4, 5), size=4001, alpha=50.0),
    case("LpNormalization", IMAGE, axis=1, p=1),
    case("MeanVarianceNormalization", IMAGE),
    *[case(op, IMAGE) for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Erf", "Exp", "Sin", "Cos")],
    *[case(op, IMAGE) for op in ("Abs", "Ceil", "Floor", "Neg", "Round", "Sign", "HardSwish", "Mish", "Identity")],
    *[case(op, IMAGE, positive=True) for op in ("Log", "Sqrt", "Reciprocal")],
    *[case(op, IMAGE, alpha=0.3) for op in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "HardSigmoid")],
    case("HardSigmoid", IMAGE, alpha=1 / 6, beta=0.5),
    case("Selu", IMAGE),
    case("Gelu", IMAGE, opset=20),
    case("Gelu", IMAGE, approximate="tanh", opset=20),
    case("PRelu", IMAGE, floats(6, 1, 1)),
    case("Clip", IMAGE, np.float32(-0.5), np.float32(0.25)),
    case("Clip", IMAGE, None, np.float32(0.25)),
    case("Softmax", IMAGE, axis=1),
    case("LogSoftmax", IMAGE),
    case("Dropout", IMAGE, np.float32(0.4)),
    *[case(op, IMAGE, floats(6, 1, 1)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")],
    case("Mul", IMAGE, np.float32(0.1)),
    case("Pow", IMAGE, np.float32(3)),
    case("Pow", IMAGE, np.float32(0.5), positive=True),
    case("Pow", (3, 4), np.float32(2), kind=TensorProto.INT64),
    case("Pow", (3, 4), np.array([2, 3, 2, 1], np.float32), kind=TensorProto.INT64),
    case("Div", (3, 4), ints(3, -2, 5, 7), kind=TensorProto.INT64),
    case("Mod", (3, 4), ints(3, -2, 5, 7), kind=TensorProto.INT64),
    case("Mod", IMAGE, np.float32(0.7), fmod=1),
    *[case(op, IMAGE, np.float32(0.1)) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")],
    case("Cast", IMAGE, to=TensorProto.INT64),
    case("CastLike", IMAGE, ints(1)),
    case("MatMul", (2, 5, 6), floats(6, 4)),
    case("Gemm", (5, 6), floats(4, 6), floats(4), transB=1),
    case("Gemm", (6, 5), floats(6, 4), floats(5, 1), transA=1, alpha=0.5, beta=2.0),
    case("Einsum", (2, 5, 6), floats(6, 4), equation="bij,jk->bik"),
    *[
        case(f"Reduce{name}", IMAGE, axes=[1, -1], keepdims=keep, opset=13)
        for name in ("Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp", "Prod")
        for keep in (0, 1)
    ],
    *[
        case(f"Reduce{name}", (3, 4, 5), axes=[1], opset=13, kind=TensorProto.INT32)
        for name in ("Mean", "Max", "L1", "L2", "SumSquare", "Prod")
    ],
    case("ReduceLogSum", IMAGE, axes=[1], opset=13, positive=True),
    case("ReduceSum", IMAGE, ints(2, 3), opset=13),
    case("ReduceMean", IMAGE, ints(2, 3), keepdims=0),
    case("ReduceMax", IMAGE),
    case("ReduceSum", IMAGE, noop_with_empty_axes=1),
    case("Reshape", IMAGE, ints(0, -1, 11)),
    case("Flatten", IMAGE),
    case("Flatten", IMAGE, axis=3),
    case("Flatten", IMAGE, axis=0),
    case("Transpose", IMAGE, perm=[0, 2, 3, 1]),
    case("Transpose", IMAGE),
    case("Squeeze", (2, 1, 3, 1), ints(-1)),
    case("Squeeze", (2, 1, 3, 1)),
    case("Unsqueeze", (2, 3), ints(0, -1)),
    case("Expand", (3, 1), ints(2, 1, 4)),
    case("Tile", (3, 2), ints(2, 3)),
    case("Concat", IMAGE, floats(2, 3, 9, 11), axis=1),
    case("DepthToSpace", (2, 12, 3, 4), blocksize=2),
    case("DepthToSpace", (2, 12, 3, 4), blocksize=2, mode="CRD"),
    case("SpaceToDepth", (2, 3, 4, 6), blocksize=2),
    case("Slice", IMAGE, ints(1, -9), ints(99, 10), ints(1, 3), ints(2, 3)),
    case("Slice", IMAGE, ints(-1), ints(-(1 << 62)), ints(2), ints(-2)),
    case("Split", IMAGE, ints(1, 2, 3), axis=1, outputs=3),
    case("Split", IMAGE, axis=-1, num_outputs=3, outputs=3),
    case("Split", IMAGE, axis=1, outputs=2, opset=13),
    case("Gather", IMAGE, ints(4, -1, 0), axis=1),
    case("Gather", IMAGE, np.int64(-2), axis=2),
    case("GatherElements", (2, 3), np.array([[0, 2], [1, -1]]), axis=1),
    case("ArgMax", IMAGE, axis=1),
    case("ArgMin", IMAGE, axis=2, keepdims=0),
    case("TopK", IMAGE, ints(3), axis=1, outputs=2),
    case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 4), np.float32(0.5)),
    case("Pad", IMAGE, ints(0, 1, 1, -2, 0, 0, 3, 4)),
    case("Pad", IMAGE, ints(1, 2), None, ints(3), mode="reflect"),
    case("Pad", IMAGE, ints(0, 1, 2, 0, 0, 2, 1, 0), mode="reflect"),
    case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 4), mode="edge"),
    case("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 3, 4), mode="wrap", opset=19),
    *[
        case(
            "Resize", (1, 2, 5, 6), None, np.array([1, 1, *scale], np.float32),
            mode=mode, coordinate_transformation_mode=coordinates,
        )
        for scale in ((2, 2), (2, 3), (0.5, 0.5), (1.3, 2.4), (0.5, 0.7))
        for mode in ("nearest", "linear", "cubic")
        for coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
        if (mode, coordinates) != ("cubic", "asymmetric")
    ],
    *[
        case(
            "Resize", (1, 2, 5, 6), None, None, ints(1, 2, *size),
            mode="nearest", nearest_mode=rounding, coordinate_transformation_mode=coordinates, opset=opset,
        )
        for size in ((10, 12), (7, 3), (5, 1))
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for coordinates in ("half_pixel", "align_corners", "asymmetric")
        for opset in ((13, 19) if size == (7, 3) else (19,))
    ],
    case("Resize", (1, 2, 5, 6), None, None, ints(7, 3), mode="linear", axes=[2, 3]),
    # Empty scales beside sizes, as old exporters write them; 7 * (61 / 7) is below 61.
    case("Resize", (1, 2, 7, 7), None, floats(0), ints(1, 2, 61, 61), mode="linear", opset=13),
    # In double precision 10 * 0.7 is below 7.
    *[
        case("Resize", (1, 2, 10, 20), None, np.array([1, 1, 0.7, 0.7], np.float32), mode=mode)
        for mode in ("nearest", "linear", "cubic")
    ],
    case("Resize", (1, 2, 5), None, None, ints(1, 2, 7), mode="linear"),
    case("Resize", (1, 5, 6, 2), None, np.array([1, 2, 2, 1], np.float32), mode="nearest"),
    case("Resize", (1, 2, 5, 6), None, None, ints(1, 2, 1, 7), mode="linear",
         coordinate_transformation_mode="pytorch_half_pixel"),
]  # fmt: skip
ELSEWHERE = {
    "And", "Constant", "ConstantOfShape", "Not", "Or", "Range", "Shape", "Size", "Where", "Xor",
}  # fmt: skip


def compare(
    model: onnx.ModelProto,
    folder: Path,
    reference: Callable[..., list[np.ndarray]],
    distance: Callable[..., float],
    inputs: Sequence[torch.Tensor] | None = None,
) -> float:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    graph = read_graph(path)
    module = build(graph)
    inputs = example_inputs(graph) if inputs is None else inputs
    module.settle(inputs)
    with torch.no_grad():
        return distance(module(*inputs), reference(model, inputs))


@pytest.mark.parametrize("one", CASES, ids=str)
def test_an_operator_computes_what_onnx_runtime_computes(
    one: Case, tmp_path: Path, make: Callable[..., Any], reference: Callable[..., Any], distance: Callable[..., float]
) -> None:
    constants = {f"c{i}": value for i, value in enumerate(one.constants) if value is not None}
    names = ["x", *(f"c{i}" if value is not None else "" for i, value in enumerate(one.constants))]
    outputs = [f"y{i}" for i in range(one.outputs)]
    node = helper.make_node(one.op, names, outputs, name="one", **one.attributes)
    kinds = dict.fromkeys(("x", *outputs), one.kind)
    if one.op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
        kinds["y0"] = TensorProto.BOOL
    if one.op in ("ArgMax", "ArgMin", "Cast", "CastLike"):
        kinds["y0"] = TensorProto.INT64
    if one.op == "TopK":
        kinds["y1"] = TensorProto.INT64
    model = make([node], {"x": one.shape}, outputs, constants, opset=one.opset, types=kinds)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*one.shape, generator=generator) * 2
    if one.positive:
        x = x.abs() + 0.1
    if one.kind != TensorProto.FLOAT:
        x = torch.randint(-20, 20, tuple(one.shape), generator=generator).to(DTYPES[one.kind])
    assert compare(model, tmp_path, reference, distance, [x]) <= TOLERANCE


def test_every_known_operator_is_compared() -> None:
    assert set(known_operators()) == {one.op for one in CASES} | ELSEWHERE


def test_arithmetic_on_shapes_is_done_while_tracing(
    tmp_path: Path, make: Callable[..., Any], reference: Callable[..., Any], distance: Callable[..., float]
) -> None:
    n = helper.make_node
    nodes = [
        n("Shape", ["x"], ["shape"]),
        n("Gather", ["shape", "zero"], ["batch"]),
        n("Slice", ["shape", "two", "four"], ["image"]),
        n("Cast", ["image"], ["wide"], to=TensorProto.FLOAT),
        n("Mul", ["wide", "half"], ["scaled"]),
        n("Floor", ["scaled"], ["down"]),
        n("Cast", ["down"], ["small"], to=TensorProto.INT64),
        n("ReduceProd", ["small"], ["count"], keepdims=1),
        n("Unsqueeze", ["batch", "axis"], ["lead"]),
        n("Concat", ["lead", "three", "small"], ["target"], axis=0),
        n("Resize", ["x", "", "", "target"], ["resized"], mode="linear"),
        n("Concat", ["lead", "three", "count"], ["flat"], axis=0),
        n("Equal", ["flat", "minus"], ["open"]),
        n("ConstantOfShape", ["one"], ["filled"], value=helper.make_tensor("v", TensorProto.INT64, [1], [7])),
        n("Where", ["open", "filled", "flat"], ["chosen"]),
        n("Reshape", ["resized", "chosen"], ["rows"]),
        n("Size", ["x"], ["size"]),
        n("Cast", ["size"], ["number"], to=TensorProto.FLOAT),
        n("Div", ["rows", "number"], ["y"]),
    ]
    constants = {
        "zero": np.int64(0), "axis": ints(0), "one": ints(1), "two": ints(2), "three": ints(3), "four": ints(4),
        "minus": ints(-1), "half": np.array([0.5], np.float32),
    }  # fmt: skip
    model = make(nodes, {"x": [2, 3, 9, 13]}, ["y"], constants)
    assert compare(model, tmp_path, reference, distance) <= TOLERANCE


def test_an_even_window_over_channels_reaches_further_up(
    tmp_path: Path, make: Callable[..., Any], distance: Callable[..., float]
) -> None:
    # ONNX Runtime takes odd windows only. The standard's evaluator takes both, as long as N is not below C.
    model = make([helper.make_node("LRN", ["x"], ["y"], size=4, alpha=0.5)], {"x": [6, 6, 3, 4]}, ["y"])
    evaluate = ReferenceEvaluator(model)
    assert (
        compare(
            model,
            tmp_path,
            lambda _, inputs: evaluate.run(None, {"x": inputs[0].numpy()}),
            distance,
        )
        <= TOLERANCE
    )


def test_logic_ranges_and_constants(
    tmp_path: Path, make: Callable[..., Any], reference: Callable[..., Any], distance: Callable[..., float]
) -> None:
    n = helper.make_node
    nodes = [
        n("Constant", [], ["low"], value_float=-0.5),
        n("Constant", [], ["high"], value=helper.make_tensor("v", TensorProto.FLOAT, [], [0.5])),
        n("Greater", ["x", "low"], ["a"]),
        n("Less", ["x", "high"], ["b"]),
        n("And", ["a", "b"], ["c"]),
        n("Or", ["c", "a"], ["d"]),
        n("Xor", ["d", "b"], ["e"]),
        n("Not", ["e"], ["f"]),
        n("Shape", ["x"], ["width"], start=-1),
        n("Squeeze", ["width"], ["last"]),
        n("Range", ["zero", "last", "step"], ["places"]),
        n("Cast", ["places"], ["steps"], to=TensorProto.FLOAT),
        n("Where", ["f", "x", "steps"], ["y"]),
    ]
    model = make(nodes, {"x": [2, 3, 8]}, ["y"], {"zero": np.int64(0), "step": np.int64(1)})
    assert compare(model, tmp_path, reference, distance) <= TOLERANCE
