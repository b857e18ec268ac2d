"""ONNX's messages without its library: what rebuilds files loads no NumPy, and the library then takes the same ones."""

import subprocess
import sys

ALONE = """
import sys
from aslconvert.workers.intake import onnx_file, onnx_messages
print(sorted({"numpy", "onnx", "ml_dtypes"} & set(sys.modules)))
"""
TOGETHER = """
import {first}
import {second}
import onnx, onnx.helper, onnx.checker
from aslconvert.workers.intake.onnx_messages import ModelProto
assert ModelProto is onnx.ModelProto
graph = onnx.helper.make_graph([], "g", [], [])
assert isinstance(onnx.helper.make_model(graph), ModelProto)
onnx.checker.check_model(ModelProto.FromString(onnx.helper.make_model(graph).SerializeToString()))
print("one")
"""


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_rebuilder_loads_no_numerics() -> None:
    assert _run(ALONE) == "[]"


def test_both_have_the_same_messages_whichever_comes_first() -> None:
    ours = "aslconvert.workers.intake.onnx_messages"
    assert _run(TOGETHER.format(first=ours, second="onnx")) == "one"
    assert _run(TOGETHER.format(first="onnx", second=ours)) == "one"
