"""Runs as a program of its own: reloads artifacts, runs them on the stored cases and prints the differences as JSON.

``python reload.py REQUEST``, with REQUEST a JSON object {folder, manifest, kinds, aslconvert: bool}. Without
``aslconvert`` the package is made impossible to import, so that what loads here loads on a machine without it.
"""

from __future__ import annotations

import importlib.util
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
OPENVINO_MISSING = "openvino is not installed"


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Per artifact path: {"checks": {where it ran: greatest difference}, "notes": [text]} or {"error": text}."""
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
                checks, notes = _check(folder, artifact, manifest, tensors, with_package=request["aslconvert"])
                answers[artifact["path"]] = {"checks": checks, "notes": notes}
            except Exception as error:  # noqa: BLE001
                answers[artifact["path"]] = {"error": _told(error)}
    return answers


def _check(
    folder: Path, artifact: dict[str, Any], manifest: dict[str, Any], tensors: dict[str, Tensor], *, with_package: bool
) -> tuple[dict[str, float], list[str]]:
    path, kind = folder / artifact["path"], artifact["kind"]
    cases = [
        (
            [tensors[i["tensor"]] if "tensor" in i else i["constant"] for i in case["inputs"]],
            [tensors[name] for name in case["outputs"]],
        )
        for case in manifest["check"]["cases"]
    ]
    where = "aslconvert's kernels" if with_package else "torch"
    if kind == "weights":
        # Its bytes are those that were written, by their hash; here it only has to open.
        if not load_file(path):
            raise ValueError("there are no tensors in it")
        return {"safetensors": 0.0}, []
    if kind in ("onnx", "int8"):
        checks = {"onnxruntime": _worst(_onnxruntime(path, manifest["inputs"]), cases)}
        return _in_openvino(path, manifest["inputs"], cases, checks)
    if kind == "code":
        return {where: _worst(_code(path, with_package=with_package), cases)}, []
    if kind == "aoti":
        return {"AOTInductor": _worst(_compiled(path), cases)}, []
    program = torch.export.load(path)
    checks = {where: _worst(_program(program), cases)}
    return checks, [_train(program, cases[0][0])] if kind == "trainable" else []


def _worst(run: Run, cases: list[tuple[list[Any], list[Tensor]]]) -> float:
    worst = 0.0
    for inputs, expected in cases:
        outputs = run([value.clone() if isinstance(value, Tensor) else value for value in inputs])
        if len(outputs) != len(expected):
            raise ValueError(f"it gives {len(outputs)} outputs instead of {len(expected)}")
        worst = max([worst, *(_difference(a, b) for a, b in zip(outputs, expected, strict=True))])
    return worst


def _program(program: Any) -> Run:
    module = program.module()

    def run(inputs: list[Any]) -> list[Tensor]:
        args, kwargs = _call(program, inputs)
        with torch.no_grad():
            return _tensors(module(*args, **kwargs))

    return run


def _call(program: Any, inputs: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    spec = program.call_spec.in_spec
    return (tuple(inputs), {}) if spec is None else pytree.tree_unflatten(inputs, spec)


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _train(program: Any, inputs: list[Any]) -> str:
    """One step back through the program: every parameter that trains must get a finite gradient."""
    module = program.module()
    args, kwargs = _call(program, inputs)
    with torch.enable_grad():
        outputs = [y for y in _tensors(module(*args, **kwargs)) if y.is_floating_point()]
        sum(y.float().square().mean() for y in outputs).backward()  # type: ignore[union-attr]
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    without = [name for name, p in trained.items() if p.grad is None or not bool(p.grad.isfinite().all())]
    if not trained or without:
        raise ValueError(f"{', '.join(without[:5]) or 'no parameter'} gets no finite gradient")
    shifts = sum(name.endswith("shift") for name in trained)
    return f"{len(trained)} parameters train, {shifts} of them shifts"


def _code(path: Path, *, with_package: bool) -> Run:
    specification = importlib.util.spec_from_file_location("generated_model", path)
    if specification is None or specification.loader is None:
        raise ValueError("Python cannot load it")
    module = importlib.util.module_from_spec(specification)
    # As an import would: torch looks its functions' modules up by name.
    sys.modules[specification.name] = module
    # No bytecode beside it: the folder holds what was written into it and nothing else.
    writes_none, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        specification.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes_none
    if (module.kernels is not None) != with_package:
        raise ValueError("it does not take the kernels that are there, or takes some that are not")
    model = module.load()

    def run(inputs: list[Any]) -> list[Tensor]:
        with torch.no_grad():
            return _tensors(model(*inputs))

    return run


def _compiled(path: Path) -> Run:
    package = torch._inductor.aoti_load_package(str(path))

    def run(inputs: list[Any]) -> list[Tensor]:
        with torch.no_grad():
            return _tensors(package(*inputs))

    return run


def _onnxruntime(path: Path, names: list[str]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = {item.name: item.type for item in session.get_inputs()}

    def run(inputs: list[Any]) -> list[Tensor]:
        given = dict(zip(names, inputs, strict=True))
        feed = {name: _plain(given[name], floats=kind == "tensor(float)").numpy() for name, kind in wanted.items()}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return run


def _in_openvino(
    path: Path, names: list[str], cases: list[tuple[list[Any], list[Tensor]]], checks: dict[str, float]
) -> tuple[dict[str, float], list[str]]:
    """The checks with OpenVINO's; where it is missing or has no such operator, a note says so instead."""
    if importlib.util.find_spec("openvino") is None:
        return checks, [f"not checked in OpenVINO: {OPENVINO_MISSING}"]
    try:
        run = _openvino(path, names)
    # It takes fewer operators than ONNX Runtime: that is a finding about it, and none against the file.
    except Exception as error:  # noqa: BLE001
        return checks, [f"does not load in OpenVINO: {_told(error)}"]
    return {**checks, "openvino": _worst(run, cases)}, []


def _openvino(path: Path, names: list[str]) -> Run:
    import openvino

    core = openvino.Core()
    # Left alone it computes in bfloat16 where the processor can.
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    wanted = {port.any_name: port.element_type for port in compiled.inputs}

    def run(inputs: list[Any]) -> list[Tensor]:
        given = dict(zip(names, inputs, strict=True))
        feed = {name: _plain(given[name], floats=kind == openvino.Type.f32).numpy() for name, kind in wanted.items()}
        found = compiled(feed)
        return [torch.from_numpy(found[port].copy()) for port in compiled.outputs]

    return run


def _plain(value: Tensor, *, floats: bool) -> Tensor:
    """The input in the file's type, which is float32 where the variant's own has no ONNX form."""
    return value.float() if floats else value


def _told(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else ''}"[:400]


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
