"""Builds zero-argument runners of one model in each runtime, ready for `latency.measure`."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from aslconvert.converter.cost.latency import measure
from aslconvert.converter.errors import InfrastructureError, UsageError
from aslconvert.converter.ir.graph import views_to_reshapes

RUNTIMES = ("torch", "torch_channels_last", "compile", "onnxruntime", "openvino")
ONNX_RUNTIMES = ("onnxruntime", "openvino")
"""Those that run ``.onnx`` files."""

Runner = Callable[[], Any]

LAYOUT_ROUNDS = 5


def available_runtimes() -> dict[str, str | None]:
    """Every runtime by name, with None where it can be used here and else the reason why not."""
    return {
        "torch": None,
        "torch_channels_last": None,
        "compile": _no_compile(),
        "onnxruntime": _no_onnxruntime(),
        "openvino": _no_openvino(),
    }


def torch_runner(module: nn.Module, inputs: Sequence[Tensor], *, channels_last: bool = False) -> Runner:
    """Eager torch. ``channels_last`` converts a copy of the module's 4-D weights and the 4-D inputs.

    Raises:
        InfrastructureError: ``runtime_unavailable``, when the module does not run with images in channels_last.
    """
    if channels_last:
        module = to_channels_last(module)
        inputs = [_to_channels_last(x) for x in inputs]
    held = tuple(inputs)

    def run() -> Any:
        with torch.inference_mode():
            return module(*held)

    if channels_last:
        try:
            run()
        except RuntimeError as error:
            why = " ".join(str(error).split())[:300]
            raise InfrastructureError("runtime_unavailable", f"It does not run in channels_last: {why}") from error
    return run


def faster_in_channels_last(module: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Whether eager torch runs ``module`` faster with images in channels_last, timed interleaved here and now."""
    try:
        packed = torch_runner(module, inputs, channels_last=True)
    except InfrastructureError:
        return False
    timed = measure({"plain": torch_runner(module, inputs), "packed": packed}, rounds=LAYOUT_ROUNDS, seed=0)
    return timed["packed"].p50_ms < timed["plain"].p50_ms


def compile_runner(module: nn.Module, inputs: Sequence[Tensor], *, channels_last: bool = False) -> Runner:
    """``torch.compile`` (Inductor) with frozen weights, compiled here and now for the shapes of ``inputs``.

    ``channels_last`` as in ``torch_runner``: Inductor keeps the layout that it is given.

    Raises:
        InfrastructureError: ``runtime_unavailable`` with the reason, when nothing can be compiled here.
    """
    if reason := _no_compile():
        raise InfrastructureError("runtime_unavailable", f"torch.compile cannot be used: {reason}.")
    if channels_last:
        module, inputs = to_channels_last(module), [_to_channels_last(x) for x in inputs]
    held = tuple(inputs)
    # Freezing lets Inductor pack the weights as it does for deployment; the original deserves its best form too.
    # Without fullgraph a module that cannot be compiled would run eagerly, and be reported as compiled.
    compiled = torch.compile(module, dynamic=False, fullgraph=True, options={"freezing": True})

    def run() -> Any:
        with torch.no_grad():
            return compiled(*held)

    try:
        with warnings.catch_warnings():
            # Inductor uses parts of torch that torch itself deprecates: no concern of the caller's.
            warnings.simplefilter("ignore", DeprecationWarning)
            run()
    except Exception as error:  # any compiler or backend failure means only that this runtime is not there
        # The first line only says which stage failed; the second says why.
        why = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
        raise InfrastructureError(
            "runtime_unavailable", f"torch.compile failed: {type(error).__name__}: {why}"
        ) from error
    return run


def onnx_runner(path: str | os.PathLike[str], inputs: Sequence[Tensor], *, threads: int) -> Runner:
    """ONNX Runtime on the CPU over the file ``path``, fed with ``inputs`` in the order of the graph's inputs.

    Raises:
        InfrastructureError: ``runtime_unavailable``, when onnxruntime is missing or refuses the file.
        UsageError: ``data_shape``, when the file takes other inputs: it runs once here.
    """
    if reason := _no_onnxruntime():
        raise InfrastructureError("runtime_unavailable", f"ONNX Runtime cannot be used: {reason}.")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # What fails is told by an exception; it need not be printed too.
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own unexported classes
        raise InfrastructureError("runtime_unavailable", f"ONNX Runtime refused {Path(path).name}: {error}") from error
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != len(inputs):
        raise UsageError("data_shape", f"{Path(path).name} takes {len(names)} inputs, {len(inputs)} were given.")
    types = [entry.type for entry in session.get_inputs()]
    feed = {name: _fed(x, kind == "tensor(float)") for name, kind, x in zip(names, types, inputs, strict=True)}

    def run() -> Any:
        return session.run(None, feed)

    _run_once(run, path, inputs)
    return run


def openvino_runner(path: str | os.PathLike[str], inputs: Sequence[Tensor], *, threads: int) -> Runner:
    """OpenVINO on the CPU over the ``.onnx`` file ``path``, in float32, tuned for the latency of one call.

    Raises:
        InfrastructureError: ``runtime_unavailable``, when openvino is missing or refuses the file.
        UsageError: ``data_shape``, when the file takes other inputs: it runs once here.
    """
    if reason := _no_openvino():
        raise InfrastructureError("runtime_unavailable", f"OpenVINO cannot be used: {reason}.")
    import openvino

    # Left alone it would compute in bfloat16 where the processor can, and be compared with float32.
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    try:
        core = openvino.Core()
        model = core.read_model(os.fspath(path))
        if len(model.inputs) == len(inputs):
            # Fixed shapes, as in the other runtimes: left dynamic it would decide at every call.
            model.reshape({port.any_name: list(x.shape) for port, x in zip(model.inputs, inputs, strict=True)})
        compiled = core.compile_model(model, "CPU", settings)
    except Exception as error:  # openvino raises bare runtime errors
        why = " ".join(str(error).split())[:300]
        raise InfrastructureError("runtime_unavailable", f"OpenVINO refused {Path(path).name}: {why}") from error
    if len(compiled.inputs) != len(inputs):
        raise UsageError(
            "data_shape", f"{Path(path).name} takes {len(compiled.inputs)} inputs, {len(inputs)} were given."
        )
    feed = [_fed(x, port.element_type == openvino.Type.f32) for port, x in zip(compiled.inputs, inputs, strict=True)]
    request = compiled.create_infer_request()

    def run() -> Any:
        return request.infer(feed, share_inputs=True, share_outputs=True)

    _run_once(run, path, inputs)
    return run


FILE_RUNNERS = {"onnxruntime": onnx_runner, "openvino": openvino_runner}
"""What runs a ``.onnx`` file in each of ``ONNX_RUNTIMES``."""


def _fed(x: Tensor, single: bool) -> Any:
    """An input as numpy has it, in float32 where the file wants that: models are written to ONNX in float32."""
    x = x.float() if single else x
    if x.dtype == torch.bfloat16:
        raise InfrastructureError("runtime_unavailable", "inputs in bfloat16 cannot be fed to it.")
    return x.detach().contiguous().numpy()


def _run_once(run: Runner, path: str | os.PathLike[str], inputs: Sequence[Tensor]) -> None:
    try:
        run()
    except Exception as error:  # each runtime raises its own unexported classes
        given = ", ".join(f"{'x'.join(map(str, x.shape))} {str(x.dtype).removeprefix('torch.')}" for x in inputs)
        why = " ".join(str(error).split())[:300]
        raise UsageError("data_shape", f"{Path(path).name} does not take inputs of {given}: {why}") from error


def to_channels_last(module: nn.Module) -> nn.Module:
    """A copy of ``module`` whose 4-D parameters and buffers lie in channels_last order; the original is untouched.

    Views in its graphs become reshapes, as anybody who runs it in this layout would have to write them.
    """
    twin = copy.deepcopy(module)
    for part in twin.modules():
        if isinstance(part, fx.GraphModule):
            views_to_reshapes(part)
            part.recompile()
    for tensor in [*twin.parameters(), *twin.buffers()]:
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return twin


def _to_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _no_compile() -> str | None:
    compiler = os.environ.get("CXX") or next((c for c in ("g++", "clang++", "c++") if shutil.which(c)), None)
    if compiler is None or shutil.which(compiler.split()[0]) is None:
        return "no C++ compiler found (install g++)"
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        return "Python.h is missing (install the python3 development headers)"
    return None


def _no_openvino() -> str | None:
    found = importlib.util.find_spec("openvino")
    return None if found else "the package openvino is not installed (optional: pip install 'aslconvert[openvino]')"


def _no_onnxruntime() -> str | None:
    return None if importlib.util.find_spec("onnxruntime") else "the package onnxruntime is not installed"
