"""Bias correction: what quantising shifts the mean of a layer's channels by is taken back in its bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aslconvert.converter.export.onnx_graph import OnnxGraph, watch

PASSES = 40
"""Layers are corrected one after the other, each on what the corrected ones before it give; in so many groups where
there are more of them. Groups of three took a third of a decibel from the demosaicker instead of giving a tenth."""

Means = dict[str, npt.NDArray[np.float64]]


def corrected(data: bytes, quantised: bytes, batches: Sequence[tuple[Any, ...]]) -> bytes:
    """``quantised``, an 8-bit form of the ONNX file ``data``, with biases that give each channel its mean back.

    (Nagel et al., 2019, "Data-free quantization through weight equalization and bias correction", here from samples.)
    ``batches`` are flat inputs of calibration. Layers without a bias stay as they are.
    """
    exact, rounded = OnnxGraph(data), OnnxGraph(quantised)
    # The quantiser keeps the names of layers, but gives those that make the model's outputs another output.
    made = {node.name: node.output[0] for node in exact.linear()}
    layers = [node for node in rounded.linear() if node.name in made and _bias(rounded, node) is not None]
    if not layers:
        return quantised
    wanted = _means(exact.model, [made[node.name] for node in layers], batches)
    size = -(-len(layers) // PASSES)
    for start in range(0, len(layers), size):
        group = layers[start : start + size]
        got = _means(rounded.model, [node.output[0] for node in group], batches)
        for node in group:
            _shift(rounded, node, wanted[made[node.name]] - got[node.output[0]])
    return rounded.to_bytes()


def _bias(graph: OnnxGraph, node: onnx.NodeProto) -> str | None:
    """The stored bias of a layer, one value a channel that no other layer reads."""
    if node.op_type == "MatMul" or len(node.input) < 3 or not node.input[2]:
        return None
    name = graph.stored(node.input[2])
    if name is None or graph.is_shared(name) or graph.is_shared(node.input[2]) or graph.read(name).ndim != 1:
        return None
    return name


def _shift(graph: OnnxGraph, node: onnx.NodeProto, by: npt.NDArray[np.float64]) -> None:
    name = _bias(graph, node)
    if name is None:
        return
    bias = graph.read(name)
    if bias.dtype != np.int32:
        graph.write(name, (bias + by).astype(bias.dtype))
        return
    # A bias of 32 bits counts in steps of its own, one a channel.
    steps = graph.read(graph.producer[node.input[2]].input[1]).astype(np.float64)
    moved = np.where(steps > 0, bias + by / np.where(steps > 0, steps, 1.0), bias)
    graph.write(name, np.clip(np.rint(moved), -(2**31) + 1, 2**31 - 1).astype(np.int32))


def _means(model: onnx.ModelProto, names: Sequence[str], batches: Sequence[tuple[Any, ...]]) -> Means:
    """The mean of each channel, by tensor, over samples and positions."""
    sums: Means = {}
    seen = 0
    for values in watch(model, names, batches):
        seen += 1
        for name, value in values.items():
            mean = value.astype(np.float64).mean(axis=(0, *range(2, value.ndim)))
            sums[name] = sums.get(name, 0.0) + mean
    return {name: total / seen for name, total in sums.items()}
