"""Latency of the original and of every method's variants in every runtime, interleaved in one measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from aslconvert.converter.cost.latency import Clock, Latency, measure
from aslconvert.converter.cost.runtimes import compile_runner, onnx_runner, openvino_runner, torch_runner
from aslconvert.converter.errors import AslconvertError
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.ir.graph import copy_graph
from aslconvert.converter.passes.fast import fast_form, int16_form, packed_form
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.pipeline.timing import INT16
from aslconvert.converter.threads import torch_threads
from aslconvert.kernels import has_int16

ORIGINAL = "original"


class Bench:
    """Holds runners by (variant, runtime).

    The variants of all methods run in the same runtimes and through the same passes: eager torch in contiguous layout,
    in channels_last and in 16-bit integers, ONNX Runtime, OpenVINO, compiled where asked.
    """

    def __init__(self, example: tuple[Tensor, ...], *, threads: int, compiled: bool) -> None:
        self._example = example
        self._threads = threads
        self._compiled = compiled
        self._runners: dict[tuple[str, str], Callable[[], Any]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="aslconvert-peers-")
        self.unavailable: dict[str, str] = {}

    def close(self) -> None:
        """Drop the runners and the temporary files."""
        self._runners.clear()
        self._folder.cleanup()

    def add_original(self, gm: fx.GraphModule) -> None:
        """The original as it came in, in every float32 runtime."""
        self._try(ORIGINAL, "torch", lambda: torch_runner(gm, self._example))
        self._try(ORIGINAL, "torch_channels_last", lambda: torch_runner(gm, self._example, channels_last=True))
        if self._compiled:
            self._try(ORIGINAL, "compile", lambda: compile_runner(copy_graph(gm), self._example))
            self._try(
                ORIGINAL,
                "compile_channels_last",
                lambda: compile_runner(copy_graph(gm), self._example, channels_last=True),
            )
        self._add_file(ORIGINAL, lambda: onnx_bytes(reexport(gm, self._example)))

    def add(self, name: str, gm: fx.GraphModule) -> None:
        """A variant of whatever method: the project's passes find the fast form of each."""
        self._try(name, "torch", lambda: torch_runner(fast_form(gm), self._example))
        self._try(name, "torch_channels_last", lambda: torch_runner(packed_form(gm), self._example))
        if has_int16():
            self._try(name, INT16, lambda: torch_runner(int16_form(gm), self._example))
        if self._compiled:
            self._try(name, "compile", lambda: compile_runner(fast_form(gm), self._example))
            self._try(name, "compile_channels_last", lambda: compile_runner(packed_form(gm), self._example))
        self._add_file(name, lambda: onnx_bytes(reexport(lower(gm), self._example)))

    def add_int8(self, name: str, model: bytes) -> None:
        """A quantised ONNX file, in the two runtimes that read it."""
        self._add_file(name, lambda: model)

    def measure(self, *, rounds: int, seed: int, clock: Clock) -> dict[str, dict[str, Latency]]:
        """Time everything, interleaved: latency by variant and runtime."""
        runners = {f"{name}|{runtime}": run for (name, runtime), run in self._runners.items()}
        with torch_threads(self._threads):
            timed = measure(runners, rounds=rounds, seed=seed, clock=clock)
        table: dict[str, dict[str, Latency]] = {}
        for key, latency in timed.items():
            name, _, runtime = key.rpartition("|")
            table.setdefault(name, {})[runtime] = latency
        return table

    def _add_file(self, name: str, build: Callable[[], bytes]) -> None:
        path = Path(self._folder.name) / f"{len(self._runners)}.onnx"
        try:
            path.write_bytes(build())
        except AslconvertError as error:
            self.unavailable[f"onnx of {name}"] = error.message
            return
        for runtime, runner in (("onnxruntime", onnx_runner), ("openvino", openvino_runner)):
            self._try(name, runtime, lambda run=runner: run(path, self._example, threads=self._threads))  # type: ignore[misc]  # a lambda's default has no annotation

    def _try(self, name: str, runtime: str, build: Callable[[], Callable[[], Any]]) -> None:
        try:
            with torch_threads(self._threads):
                self._runners[name, runtime] = build()
        except AslconvertError as error:
            self.unavailable[f"{runtime} of {name}"] = error.message


def fastest(table: dict[str, Latency]) -> tuple[str, Latency]:
    """The runtime of the lowest median, and that latency."""
    return min(table.items(), key=lambda entry: entry[1].p50_ms)
