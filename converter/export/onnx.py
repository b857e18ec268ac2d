"""ONNX form of an exported program."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram

from aslconvert.converter.errors import InternalError
from aslconvert.converter.ir.quiet import quiet

OPSET = 20


def onnx_bytes(program: ExportedProgram) -> bytes:
    """The ONNX file of a program of standard operators, opset 20, with its dynamic sizes.

    Raises InternalError("onnx_failed") for a graph that torch's exporter cannot translate.
    """
    try:
        with quiet():
            exported = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, verbose=False)
            if exported is None:
                raise RuntimeError("torch gave no ONNX program")
            data: bytes = exported.model_proto.SerializeToString()
            return data
    except Exception as error:
        first = str(error).strip().splitlines()
        raise InternalError("onnx_failed", f"torch's ONNX exporter failed: {first[0] if first else error!r}") from error
