"""Times a file, or every artifact of a conversion, in every runtime asked for, interleaved in one run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from aslconvert.converter.cost.device import DeviceProfile, device_profile, usable_cores
from aslconvert.converter.cost.latency import DEFAULT_ROUNDS, Latency, measure
from aslconvert.converter.cost.pinning import pinned
from aslconvert.converter.cost.runtimes import (
    ONNX_RUNTIMES,
    RUNTIMES,
    Runner,
    available_runtimes,
    compile_runner,
    faster_in_channels_last,
    onnx_runner,
    openvino_runner,
    torch_runner,
)
from aslconvert.converter.errors import InfrastructureError, InternalError, ModelRefused, UsageError
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.importers.model import is_file, open_model
from aslconvert.converter.threads import torch_threads

_ARTIFACTS = ("portable.pt2", "fast.pt2", "fast.int16.pt2", "model.onnx", "model.int8.onnx")
"""What of a conversion's folder is timed; the first gives the inputs."""


ORIGINAL = "original"

_ONNX = {"onnxruntime": onnx_runner, "openvino": openvino_runner}

_BEYOND_IMPORT = ("unsupported", "dynamic_value", "export_failed")
"""Refusals of an .onnx file that is whole, and that ONNX's own runtimes may well run."""

Loader = Callable[[Path], ExportedProgram]


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One file in one runtime: its latency, or the reason why there is none."""

    file: str
    runtime: str
    latency: Latency | None
    unavailable: str | None = None


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Everything measured in one run; ``shapes`` are those of the inputs every row was fed.

    ``notes`` say what stands between these figures and those of the conversion.
    """

    rows: tuple[BenchRow, ...]
    shapes: tuple[tuple[int, ...], ...]
    device: DeviceProfile
    notes: tuple[str, ...] = ()


def bench(
    path: str | Path,
    *,
    runtimes: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
    threads: int | None = None,
    rounds: int = DEFAULT_ROUNDS,
    seed: int = 0,
    original: str | None = None,
) -> BenchReport:
    """Time the model that ``path`` names, as `open_model` reads it, or the artifacts in the folder ``path``.

    What is no ``.onnx`` is exported to a temporary one for ``onnxruntime`` and ``openvino``. An ``.onnx`` goes to them
    as it is, and is imported for the others.

    Args:
        runtimes: names of `runtimes.RUNTIMES`; None takes all.
        shape: of the model's single input; None takes the model's example inputs.
        threads: for every runtime alike; None takes every core this process may use.
        original: the model that was converted, as `open_model` reads it; its rows are named ``original``.

    Raises:
        UsageError: a folder that no conversion wrote, an unknown runtime, or a shape that is missing or does not fit.
        ModelRefused: nothing at ``path`` can be loaded.
    """
    wanted = tuple(RUNTIMES if runtimes is None else dict.fromkeys(runtimes))
    if unknown := [name for name in wanted if name not in RUNTIMES]:
        raise UsageError(
            "unknown_runtime", f"No runtime is called {', '.join(unknown)}.", hint=f"Known: {', '.join(RUNTIMES)}."
        )
    count = usable_cores() if threads is None else threads
    files = _files(Path(path))
    notes = _notes(Path(path), original)
    load: Loader = cache(lambda file: open_model(str(file)))
    inputs = _inputs(files, shape, seed, load)
    runners: dict[tuple[str, str], Runner] = {}
    failures: dict[tuple[str, str], str] = {}
    with torch_threads(count), tempfile.TemporaryDirectory(prefix="aslconvert-bench-") as scratch:
        timed = [(file.name, file, _runtimes_of(file, files, wanted)) for file in files]
        if original is not None:
            timed.append((ORIGINAL, Path(original), list(wanted)))
        for name, file, its_runtimes in timed:
            for runtime in its_runtimes:
                key = (name, runtime)
                if reason := available_runtimes()[runtime]:
                    failures[key] = reason
                    continue
                try:
                    place = Path(scratch) / f"of {name}"
                    place.mkdir(exist_ok=True)
                    runners[key] = _runner(file, runtime, inputs, load, threads=count, scratch=place)
                except InfrastructureError as error:
                    failures[key] = error.message
        with pinned(count):
            measured = measure({"\0".join(key): run for key, run in runners.items()}, rounds=rounds, seed=seed)
    rows = [BenchRow(file=f, runtime=r, latency=measured[f"{f}\0{r}"]) for f, r in runners]
    rows += [BenchRow(file=f, runtime=r, latency=None, unavailable=why) for (f, r), why in failures.items()]
    if not rows:
        raise UsageError("nothing_to_time", f"No file in {path} runs in {', '.join(wanted)}.")
    shapes = tuple(tuple(x.shape) for x in inputs)
    if (told := _other_shapes(Path(path), shapes)) is not None:
        notes.append(told)
    return BenchReport(rows=tuple(rows), shapes=shapes, device=device_profile(threads=count), notes=tuple(notes))


def _notes(path: Path, original: str | None) -> list[str]:
    if original is not None or not path.is_dir():
        return []
    return ["the original is not among these files: --original MODEL times it with them"]


def _other_shapes(path: Path, shapes: tuple[tuple[int, ...], ...]) -> str | None:
    """A note where the conversion measured other inputs, another batch above all: latencies are then no comparison."""
    try:
        found = json.loads((path / "report.json").read_text())["latency_inputs"]
        measured = tuple(tuple(int(size) for size in shape) for shape in found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not measured or measured == shapes:
        return None
    said, here = (", ".join("x".join(map(str, shape)) for shape in some) for some in (measured, shapes))
    return f"the report's latencies are of inputs {said}, these of {here}: --shape {said.split(', ')[0]} for the same"


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = [path / name for name in _ARTIFACTS if (path / name).is_file()]
        if not found:
            raise UsageError(
                "no_artifacts",
                f"'{path}' holds none of {', '.join(_ARTIFACTS)}.",
                hint="Give the folder that convert wrote.",
            )
        return found
    if is_file(str(path)) and not path.is_file():
        raise ModelRefused("not_found", f"There is no file '{path}'.", hint="Give a .pt2, an .onnx or a folder.")
    return [path]


def _runtimes_of(file: Path, files: Sequence[Path], wanted: Sequence[str]) -> list[str]:
    if file.suffix == ".onnx":
        return [name for name in wanted if name in ONNX_RUNTIMES or len(files) == 1]
    # Of a folder's files only the .onnx itself is timed in their runtimes; the fused op has no ONNX form anyway.
    return [name for name in wanted if name not in ONNX_RUNTIMES or len(files) == 1]


def _inputs(files: Sequence[Path], shape: Sequence[int] | None, seed: int, load: Loader) -> tuple[Tensor, ...]:
    if shape is not None:
        return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)),)
    try:
        example = load(files[0]).example_inputs
    except ModelRefused as refused:
        if files[0].suffix != ".onnx" or not refused.code.startswith(_BEYOND_IMPORT):
            raise
        # The file's own runtimes may take it all the same, once they know what to feed it.
        raise UsageError("shape_missing", refused.message, hint="Add --shape 1x3x224x224.") from refused
    tensors = example[0] if example is not None else ()
    if not tensors or not all(isinstance(value, Tensor) for value in tensors):
        raise UsageError(
            "shape_missing", f"'{files[0].name}' holds no plain example inputs.", hint="Add --shape 1x3x224x224."
        )
    return tuple(tensors)


def _runner(file: Path, runtime: str, inputs: Sequence[Tensor], load: Loader, *, threads: int, scratch: Path) -> Runner:
    if file.suffix == ".onnx" and runtime in ONNX_RUNTIMES:
        return _ONNX[runtime](file, inputs, threads=threads)
    try:
        program = load(file)
    except ModelRefused as refused:
        if file.suffix != ".onnx" or not refused.code.startswith(_BEYOND_IMPORT):
            raise
        raise InfrastructureError("runtime_unavailable", f"it cannot be imported: {refused.message}") from refused
    if runtime in ONNX_RUNTIMES:
        target = scratch / f"{file.stem}.onnx"
        try:
            target.write_bytes(onnx_bytes(program))
        except InternalError as error:
            raise InfrastructureError("runtime_unavailable", f"it has no ONNX form: {error.message}") from error
        return _ONNX[runtime](target, inputs, threads=threads)
    module = program.module()
    try:
        with torch.no_grad():
            module(*inputs)
    except Exception as error:  # torch's guards raise bare assertion and runtime errors
        shapes = ", ".join("x".join(map(str, x.shape)) for x in inputs)
        raise UsageError("data_shape", f"'{file.name}' does not take inputs of {shapes}.") from error
    if runtime == "compile":
        return compile_runner(module, inputs, channels_last=faster_in_channels_last(module, inputs))
    return torch_runner(module, inputs, channels_last=runtime == "torch_channels_last")
