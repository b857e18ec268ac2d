"""Runs as a program of its own: reloads artifacts, runs them on the stored cases and prints the differences as JSON.

``python reload.py REQUEST``, with REQUEST a JSON object {folder, manifest, kinds, aslconvert: bool}. Without
``aslconvert`` the package is made impossible to import, so that what loads here loads on a machine without it.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not json.loads(sys.argv[1])["aslconvert"]:
    # None in the table of modules is how Python itself marks a name that must not be imported.
    for _name in [name for name in sys.modules if name.split(".")[0] == "aslconvert"]:
        del sys.modules[_name]
    sys.modules["aslconvert"] = None  # type: ignore[assignment]

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils import _pytree as pytree

Run = Callable[[list[Any]], list[Tensor]]


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per artifact path: {"max_abs_diff": float} or {"error": text}."""
    warnings.simplefilter("ignore")
    folder, manifest = Path(request["folder"]), request["manifest"]
    if request["aslconvert"]:
        import aslconvert.kernels  # noqa: F401  registers the ops of the fast form
    elif any(name.startswith("asl::") for name in torch._C._dispatch_get_all_op_names()):
        raise RuntimeError("the asl ops are registered in a process that must not have them")
    tensors = load_file(folder / manifest["check"]["path"])
    answers: dict[str, Any] = {}
    for artifact in manifest["artifacts"]:
        if artifact["kind"] in request["kinds"]:
            # Whatever goes wrong with a foreign file is the finding that is reported.
            try:
                answers[artifact["path"]] = {"max_abs_diff": _check(folder, artifact, manifest, tensors)}
            except Exception as error:  # noqa: BLE001
                first = str(error).strip().splitlines()
                answers[artifact["path"]] = {"error": f"{type(error).__name__}: {first[0] if first else ''}"[:400]}
    return answers


def _check(folder: Path, artifact: dict[str, Any], manifest: dict[str, Any], tensors: dict[str, Tensor]) -> float:
    path, kind = folder / artifact["path"], artifact["kind"]
    if kind == "weights":
        # Its bytes are those that were written, by their hash; here it only has to open.
        if not load_file(path):
            raise ValueError("there are no tensors in it")
        return 0.0
    run = _onnx(path, manifest["inputs"]) if kind == "onnx" else _program(path)
    worst = 0.0
    for case in manifest["check"]["cases"]:
        inputs = [tensors[i["tensor"]].clone() if "tensor" in i else i["constant"] for i in case["inputs"]]
        outputs, expected = run(inputs), [tensors[name] for name in case["outputs"]]
        if len(outputs) != len(expected):
            raise ValueError(f"it gives {len(outputs)} outputs instead of {len(expected)}")
        worst = max([worst, *(_difference(a, b) for a, b in zip(outputs, expected, strict=True))])
    return worst


def _program(path: Path) -> Run:
    program = torch.export.load(path)
    module = program.module()

    def run(inputs: list[Any]) -> list[Tensor]:
        spec = program.call_spec.in_spec
        args, kwargs = (tuple(inputs), {}) if spec is None else pytree.tree_unflatten(inputs, spec)
        with torch.no_grad():
            outputs = module(*args, **kwargs)
        return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]

    return run


def _onnx(path: Path, names: list[str]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}

    def run(inputs: list[Any]) -> list[Tensor]:
        named = dict(zip(names, inputs, strict=True))
        feed = {name: value.numpy() for name, value in named.items() if name in wanted and isinstance(value, Tensor)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return run


def _difference(given: Tensor, expected: Tensor) -> float:
    if given.shape != expected.shape:
        raise ValueError(f"it gives the shape {tuple(given.shape)} instead of {tuple(expected.shape)}")
    if not expected.numel():
        return 0.0
    a, b = given.double(), expected.double()
    same = (a == b) | (a.isnan() & b.isnan())
    largest = float((a - b).abs().masked_fill(same, 0.0).max())
    if not math.isfinite(largest):
        raise ValueError("it gives numbers that are not finite where the variant gives finite ones")
    return largest


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))  # noqa: T201  its answer
