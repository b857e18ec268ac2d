"""An ONNX file quantised to 8 bits: static, with a scale a channel for weights, calibrated on real samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor

from aslconvert.converter.errors import InternalError
from aslconvert.converter.ir.quiet import quiet

SAMPLES = 256
"""Calibration samples at most: ranges of activations settle much earlier."""

NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def int8_bytes(
    model: bytes,
    batches: Sequence[tuple[Any, ...]],
    *,
    kept: Sequence[str] = (),
    seven_bits: bool = False,
) -> bytes:
    """The quantised form of the ONNX file ``model``; ``batches`` are flat inputs of calibration.

    Weights become int8 and activations uint8 in QDQ form (quantise and dequantise nodes around float operators), which
    ONNX Runtime and OpenVINO both turn into integer kernels. The same model and batches give the same bytes.

    Args:
        kept: names of nodes that stay in float.
        seven_bits: weights of 7 bits, for processors whose 8-bit products saturate (those without VNNI).

    Raises:
        InternalError: ``int8_failed``.
    """
    session = open_session(model)
    reader = _Reader(session, batches)
    with tempfile.TemporaryDirectory(prefix="aslconvert-int8-") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model)
        try:
            with quiet():
                quantize_static(
                    source,
                    target,
                    reader,
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    # OpenVINO 2026.4 computes something else where activations are signed (docs/adr/0009).
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=list(kept),
                    reduce_range=seven_bits,
                )
            return target.read_bytes()
        # The quantiser fails in its own many ways; each means that this network has no 8-bit form.
        except Exception as error:
            first = (str(error).strip() or repr(error)).splitlines()[0]
            raise InternalError("int8_failed", f"ONNX Runtime's quantiser failed: {first}") from error


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU, silent."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feed(session: onnxruntime.InferenceSession, inputs: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """What to run ``session`` with, for flat ``inputs`` called ``names``; constants have no input in the file."""
    given = dict(zip(names, inputs, strict=True))
    return {item.name: _array(given[item.name], item.type) for item in session.get_inputs()}


def run_onnx(session: onnxruntime.InferenceSession, inputs: Sequence[Any], names: Sequence[str]) -> list[Tensor]:
    """The file's flat outputs."""
    return [torch.from_numpy(output) for output in session.run(None, feed(session, inputs, names))]


def _array(value: Tensor, kind: str) -> Any:
    wanted = NUMPY.get(kind)
    value = value.detach().cpu()
    return value.numpy() if wanted is None else value.double().numpy().astype(wanted)


def feeds(
    session: onnxruntime.InferenceSession, batches: Sequence[tuple[Any, ...]], *, samples: int = SAMPLES
) -> Iterator[dict[str, Any]]:
    """What to run ``session`` with for each of ``batches`` (flat inputs), until they make ``samples``."""
    names = [item.name for item in session.get_inputs()]
    seen = 0
    for batch in batches:
        tensors = [value for value in batch if isinstance(value, Tensor)]
        if seen >= samples:
            return
        seen += len(tensors[0])
        yield feed(session, tensors, names)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not annotated
    def __init__(self, session: onnxruntime.InferenceSession, batches: Sequence[tuple[Any, ...]]) -> None:
        self._feeds = feeds(session, batches)

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by input name, None after the last."""
        return next(self._feeds, None)
