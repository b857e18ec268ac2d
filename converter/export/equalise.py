"""Cross-layer equalisation: channels of a tensor are brought to like ranges, so that one scale of 8 bits suits all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aslconvert.converter.export.onnx_graph import OnnxGraph, attribute, watch

SHARE = 0.5
"""How far activations are equalised at the cost of the next dense layer: the geometric mean of both ranges."""

MOST = 64.0
"""Factors beyond this one, or below its inverse, are cut: such a channel is all but dead."""

Scales = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Link:
    """``tensor`` is made by ``first`` (with a ReLU between, or none), and read by the convolutions ``after`` alone."""

    tensor: str
    first: onnx.NodeProto
    after: tuple[onnx.NodeProto, ...]


def equalised(data: bytes, batches: Sequence[tuple[Any, ...]]) -> bytes:
    """The same function as the ONNX file ``data`` with rescaled channels between its convolutions.

    A ReLU lets positive factors through, so channel c may leave one convolution divided by s_c and meet the next one's
    weights multiplied by it. Activations have one scale a tensor, weights one an output channel. s_c balances them:
    for a dense layer as in SmoothQuant (Xiao et al., 2022), sqrt(range of the channel / range of its weights), while
    a depthwise layer has a scale a channel anyway and takes the whole factor (Nagel et al., 2019, "Data-free
    quantization through weight equalization"). ``batches`` are flat inputs of calibration. The file comes back as it
    is where no tensor qualifies.
    """
    graph = OnnxGraph(data)
    links = [link for node in graph.linear() if (link := _link(graph, node)) is not None]
    if not links:
        return data
    ranges = _ranges(graph, [link.tensor for link in links], batches)
    for link in links:
        scales = _scales(graph, link, ranges[link.tensor])
        _divide_rows(graph, link.first, scales)
        for node in link.after:
            weight = node.input[1]
            shape = (-1, 1) if attribute(node, "group", 1) > 1 else (1, -1)
            value = graph.read(weight)
            graph.write(weight, _times(value, scales.reshape(shape + (1,) * (value.ndim - 2))))
    return graph.to_bytes()


def _link(graph: OnnxGraph, node: onnx.NodeProto) -> _Link | None:
    """The link that starts at ``node``, if there is one whose weights may be rescaled."""
    if node.op_type != "Conv":
        return None
    tensor = node.output[0]
    after = graph.consumers[tensor]
    if len(after) == 1 and after[0].op_type == "Relu" and tensor not in graph.outputs:
        tensor = after[0].output[0]
        after = graph.consumers[tensor]
    own = [name for name in node.input[1:] if name]
    weights = [*own, *(other.input[1] for other in after if len(other.input) > 1)]
    if (
        tensor in graph.outputs
        or not after
        or any(other.op_type != "Conv" or other.input[0] != tensor for other in after)
        or any(graph.stored(name) != name or graph.is_shared(name) for name in weights)
        or graph.read(own[0]).dtype != np.float32
    ):
        return None
    channels = len(graph.read(own[0]))
    if any(attribute(other, "group", 1) not in (1, channels) for other in after):
        return None
    # A depthwise layer with several outputs a channel would need its factors repeated.
    if any(attribute(other, "group", 1) > 1 and len(graph.read(other.input[1])) != channels for other in after):
        return None
    return _Link(tensor, node, tuple(after))


def _ranges(graph: OnnxGraph, names: Sequence[str], batches: Sequence[tuple[Any, ...]]) -> dict[str, Scales]:
    """The largest magnitude of each channel, by tensor."""
    found: dict[str, Scales] = {}
    for values in watch(graph.model, names, batches):
        for name, value in values.items():
            largest = np.abs(value).max(axis=(0, *range(2, value.ndim))).astype(np.float64)
            found[name] = np.maximum(found.get(name, 0.0), largest)
    return found


def _scales(graph: OnnxGraph, link: _Link, ranges: Scales) -> Scales:
    """s_c of the link, with a geometric mean of one."""
    dense = [node for node in link.after if attribute(node, "group", 1) == 1]
    alive = ranges > 0
    if not alive.any():
        return np.ones_like(ranges)
    logs = np.log(np.where(alive, ranges, 1.0))
    if dense:
        needs = np.full_like(ranges, 1e-3)
        for node in dense:
            weight = np.abs(graph.read(node.input[1]).astype(np.float64))
            rows = weight.max(axis=tuple(range(1, weight.ndim)), keepdims=True)
            share = weight / np.maximum(rows, 1e-12)
            needs = np.maximum(needs, share.max(axis=(0, *range(2, weight.ndim))))
        logs = SHARE * logs - (1 - SHARE) * np.log(needs)
    logs = np.where(alive, logs - logs[alive].mean(), 0.0)
    scales: Scales = np.exp(np.clip(logs, -np.log(MOST), np.log(MOST)))
    return scales


def _divide_rows(graph: OnnxGraph, node: onnx.NodeProto, scales: Scales) -> None:
    for name in node.input[1:]:
        if name:
            value = graph.read(name)
            graph.write(name, _times(value, 1 / scales.reshape(-1, *(1,) * (value.ndim - 1))))


def _times(value: Any, factor: Scales) -> Any:
    return (value * factor).astype(value.dtype)
