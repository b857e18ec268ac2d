from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 18,
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of ``nodes``; inputs are float32 unless ``types`` says otherwise."""
    kinds = types or {}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), None) for n in outputs],
        [numpy_helper.from_array(np.array(value, order="C"), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run_onnxruntime(model: onnx.ModelProto | Path, inputs: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """What ONNX Runtime computes, on one thread and without its own rewriting of the graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


def difference(mine: Any, theirs: Sequence[np.ndarray]) -> float:
    """The largest difference, relative to the largest magnitude of each output."""
    outputs = list(mine) if isinstance(mine, (tuple, list)) else [mine]
    assert len(outputs) == len(theirs)
    worst = 0.0
    for a, b in zip(outputs, theirs, strict=True):
        assert tuple(a.shape) == b.shape
        assert a.detach().numpy().dtype == b.dtype
        x, y = a.detach().double().numpy(), b.astype(np.float64)
        assert np.isfinite(x).all()
        assert np.isfinite(y).all()
        worst = max(worst, float(np.abs(x - y).max(initial=0)) / max(float(np.abs(y).max(initial=0)), 1e-6))
    return worst


@pytest.fixture(scope="session")
def make() -> Callable[..., onnx.ModelProto]:
    return make_model


@pytest.fixture(scope="session")
def reference() -> Callable[..., list[np.ndarray]]:
    return run_onnxruntime


@pytest.fixture(scope="session")
def distance() -> Callable[..., float]:
    return difference
