"""The messages of ONNX, without the rest of its library: whoever only rebuilds files loads and installs no numerics.

The library's package imports NumPy and 7 MB of native code before its generated messages, which need neither; the
service's image leaves both out (docs/adr/0017-images.md).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

_NAME = "onnx.onnx_ml_pb2"


def _load() -> ModuleType:
    """The module of the library itself if that is loaded, else from its file; the library then takes this one."""
    if (loaded := sys.modules.get(_NAME)) is not None:
        return loaded
    package = importlib.util.find_spec("onnx")  # finds the package and does not run it
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
    file = Path(package.submodule_search_locations[0]) / "onnx_ml_pb2.py"
    spec = importlib.util.spec_from_file_location(_NAME, file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {_NAME!r}", name=_NAME)
    module = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[_NAME]
        raise
    return module


if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
else:
    _messages = _load()
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto = (
        getattr(_messages, name)
        for name in ("AttributeProto", "GraphProto", "ModelProto", "NodeProto", "TensorProto", "ValueInfoProto")
    )

__all__ = ["AttributeProto", "GraphProto", "ModelProto", "NodeProto", "TensorProto", "ValueInfoProto"]
