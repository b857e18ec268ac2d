"""Which layers of a quantised file cost its outputs most: each by itself is put back into float and the file run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from aslconvert.converter.export.int8 import feeds, open_session
from aslconvert.converter.export.onnx_graph import Array, OnnxGraph

SAMPLES = 8
"""Samples that each layer is tried on."""

LAYERS = 24
"""Layers tried: where there are more, those nearest to the inputs and to the outputs."""

LEAST_SHARE = 0.1
"""Of the squared error that a layer must take off to be named."""

ACTIVATIONS = ("Relu", "Clip")
"""What the quantiser leaves out, since the bounds of the numbers behind it do the same."""

MOST = 3
"""Layers named."""


def costly_layers(
    exact: bytes, quantised: bytes, batches: Sequence[tuple[Any, ...]], wanted: Sequence[Array]
) -> tuple[str, ...]:
    """Names of the layers of ``quantised`` whose rounding makes most of its error, the worst first.

    ``exact`` is the file in float that it was made of, ``wanted`` what that gives on ``batches`` (flat inputs), outputs
    of floating point alone. Every layer takes a pass over a few samples.
    """
    names = [node.name for node in OnnxGraph(exact).linear()]
    if len(names) > LAYERS:
        names = [*names[: LAYERS // 2], *names[-LAYERS // 2 :]]
    weights = OnnxGraph(exact)
    whole = _squared_error(quantised, batches, wanted)
    if whole <= 0:
        return ()
    gains = {}
    for name in names:
        freed = _freed(OnnxGraph(quantised), weights, name)
        if freed is not None:
            gains[name] = 1 - _squared_error(freed, batches, wanted) / whole
    named = [name for name in gains if gains[name] >= LEAST_SHARE]
    return tuple(sorted(named, key=lambda name: -gains[name])[:MOST])


def with_activations(exact: bytes, kept: Sequence[str]) -> tuple[str, ...]:
    """``kept`` with the activations that follow: else their inputs would be rounded, with a range that is cut off."""
    graph = OnnxGraph(exact)
    layers = [node for node in graph.nodes if node.name in kept]
    after = [other for node in layers for other in graph.consumers[node.output[0]] if other.op_type in ACTIVATIONS]
    return (*kept, *(node.name for node in after))


def _freed(graph: OnnxGraph, weights: OnnxGraph, name: str) -> bytes | None:
    """The quantised file with one layer in float; None where the layer is not quantised."""
    node = next((node for node in graph.linear() if node.name == name), None)
    exact = next(node for node in weights.linear() if node.name == name)
    if node is None:
        return None
    changed = False
    for place, given in enumerate(node.input):
        stored = graph.stored(given) if given else None
        original = weights.stored(exact.input[place]) if given else None
        if stored is not None and original is not None and stored != given:
            value = numpy_helper.from_array(weights.read(original), f"{name}.float.{place}")
            graph.model.graph.initializer.append(value)
            node.input[place] = value.name
            changed = True
        elif (source := _before_rounding(graph, given)) is not None:
            node.input[place] = _activated(graph, weights.producer.get(exact.input[place]), source, node)
            changed = True
    for output in graph.outputs:
        source = _before_rounding(graph, output)
        if source is not None and source in node.output:
            whole = graph.producer[output]
            whole.op_type = "Identity"
            del whole.input[1:]
            del whole.attribute[:]
            whole.input[0] = source
    return graph.to_bytes() if changed else None


def _activated(graph: OnnxGraph, activation: onnx.NodeProto | None, source: str, node: onnx.NodeProto) -> str:
    """``source`` after the activation that the quantiser left to the bounds of 8 bits, where it did."""
    if activation is None or activation.op_type not in ACTIVATIONS or _has(graph, activation.name):
        return source
    again = onnx.NodeProto()
    again.CopyFrom(activation)
    again.name = again.output[0] = f"{node.name}.activated"
    again.input[0] = source
    place = next(index for index, other in enumerate(graph.model.graph.node) if other.name == node.name)
    graph.model.graph.node.insert(place, again)
    return str(again.output[0])


def _has(graph: OnnxGraph, name: str) -> bool:
    return any(node.name == name for node in graph.nodes)


def _before_rounding(graph: OnnxGraph, name: str) -> str | None:
    """What a quantised and dequantised tensor was before; None where it is no such tensor."""
    last = graph.producer.get(name)
    first = graph.producer.get(last.input[0]) if last is not None and last.op_type == "DequantizeLinear" else None
    return str(first.input[0]) if first is not None and first.op_type == "QuantizeLinear" else None


def _squared_error(model: bytes, batches: Sequence[tuple[Any, ...]], wanted: Sequence[Array]) -> float:
    session = open_session(model)
    expected = iter(wanted)
    total = 0.0
    for given in feeds(session, batches, samples=SAMPLES):
        for value in session.run(None, given):
            if np.issubdtype(value.dtype, np.floating):
                total += float(np.square(value.astype(np.float64) - next(expected)).sum())
    return total
