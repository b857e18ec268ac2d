"""Latency of the original and of the variants in every runtime, interleaved in one run."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from aslconvert.converter.cost.latency import Latency, freeze_old, measure, planning_clock
from aslconvert.converter.cost.pinning import pinned
from aslconvert.converter.cost.runtimes import (
    FILE_RUNNERS,
    ONNX_RUNTIMES,
    available_runtimes,
    compile_runner,
    faster_in_channels_last,
    torch_runner,
)
from aslconvert.converter.errors import AslconvertError
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.onnx_graph import fixed_sizes
from aslconvert.converter.export.recipes import distance
from aslconvert.converter.export.reexport import reexport
from aslconvert.converter.ir.graph import copy_graph
from aslconvert.converter.passes.fast import fast_form, int16_form, packed_form
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.report.schema import LatencyValue, Precision
from aslconvert.converter.threads import torch_threads
from aslconvert.kernels import has_int16

ORIGINAL = "original"
FINAL_ROUNDS = 15
FORM_ROUNDS = 5

INT16 = "torch_int16"
"""The runtime of variants in 16 bits: what they give there is another function, scored by itself."""


FAR = 0.2
"""Outputs that differ so much (relative L2) between two runtimes are no matter of rounding: one of them is wrong."""


class Timer:
    """Holds runners by (model, runtime) and times them together.

    The original runs as it came in: eager in both layouts, compiled, in ONNX Runtime and in OpenVINO. A variant runs
    on the fused op in eager torch, in float32 and in 16 bits (unless ``int16`` is False, or no kernel does it), and
    lowered in the last two; compiled too where asked, which takes half a minute. Files in 8 bits run in the last two.
    """

    def __init__(self, example: tuple[Tensor, ...], *, threads: int, seed: int, int16: bool = True) -> None:
        self._int16 = int16 and has_int16()
        self._example = example
        self._threads = threads
        self._seed = seed
        self._runners: dict[tuple[str, str], Callable[[], Any]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="aslconvert-")
        self._froze = False
        self.pinned = False
        """Whether the last measurement was of a process that stays on as many cores as it has threads."""
        self.unavailable: dict[str, str] = {k: v for k, v in available_runtimes().items() if v is not None}

    def close(self) -> None:
        """Drop the runners and the temporary files."""
        self._runners.clear()
        self._folder.cleanup()
        if self._froze:
            gc.unfreeze()
            self._froze = False

    def add_original(self, gm: fx.GraphModule, *, compiled: bool = True) -> None:
        """The original in every runtime that works here; ``compiled`` too, in the layout that suits it."""
        self._runners[ORIGINAL, "torch"] = torch_runner(gm, self._example)
        self._try(ORIGINAL, "torch_channels_last", lambda: torch_runner(gm, self._example, channels_last=True))
        if compiled:
            with torch_threads(self._threads):
                packed = faster_in_channels_last(gm, self._example)
            self._try(ORIGINAL, "compile", lambda: compile_runner(copy_graph(gm), self._example, channels_last=packed))
        self._add_onnx(ORIGINAL, lambda: gm)
        # By now all is loaded that measuring needs.
        self._froze = self._froze or freeze_old()

    def add_variant(self, name: str, gm: fx.GraphModule) -> None:
        """A variant (as ``replace_sites`` gives it) in eager torch, in ONNX Runtime and in OpenVINO.

        In torch it runs in both fast forms; the one in channels_last takes its inputs as callers have them.
        """
        self._runners[name, "torch"] = torch_runner(fast_form(gm), self._example)
        self._runners[name, "torch_channels_last"] = torch_runner(packed_form(gm), self._example)
        if self._int16:
            self._runners[name, INT16] = torch_runner(int16_form(gm), self._example)
        self._add_onnx(name, lambda: lower(gm))

    def add_int8(self, name: str, data: bytes) -> None:
        """A quantised ONNX file, with its sizes fixed to the example's, in the two runtimes that read it."""
        path = Path(self._folder.name) / f"{name}.onnx"
        path.write_bytes(fixed_sizes(data, [tuple(x.shape) for x in self._example]))
        self._add_file(name, lambda: path)
        one, other = (self._runners.get((name, runtime)) for runtime in ONNX_RUNTIMES)
        if one is not None and other is not None:
            off = distance(list(other().values()), one())
            if off > FAR:
                del self._runners[name, "openvino"]
                self.unavailable[f"openvino of {name}"] = f"it gives other outputs than ONNX Runtime, {off:.0%} off"

    def add_compiled(self, name: str, gm: fx.GraphModule) -> None:
        """A variant that was added, compiled in the form that is faster."""
        eager = {runtime: self._runners[name, runtime] for runtime in ("torch", "torch_channels_last")}
        form = packed_form if self.packed_wins(self._measure(eager, rounds=FORM_ROUNDS, planning=True)) else fast_form
        self._try(name, "compile", lambda: compile_runner(form(gm), self._example))

    def measure(self, *, rounds: int = FINAL_ROUNDS) -> dict[str, dict[str, Latency]]:
        """Time everything that was added, interleaved: latency by model and runtime."""
        timed = self._measure(
            {f"{name}|{runtime}": run for (name, runtime), run in self._runners.items()},
            rounds=rounds,
        )
        table: dict[str, dict[str, Latency]] = {}
        for key, latency in timed.items():
            name, _, runtime = key.rpartition("|")
            table.setdefault(name, {})[runtime] = latency
        return table

    def speedup_of(self, gm: fx.GraphModule, runtime: str, *, rounds: int, lowered: Collection[str] = ()) -> float:
        """Quick figure: the original in ``runtime`` over ``gm`` in its fastest form, interleaved.

        ``lowered``: the forms include the lowered one in these ONNX runtimes. That takes an export, but small networks
        and those that keep dense convolutions may be at their best there.
        """
        timed = self.quick(gm, rounds=rounds, lowered=lowered, beside=runtime)
        return timed[ORIGINAL].p50_ms / min(value.p50_ms for name, value in timed.items() if name != ORIGINAL)

    def quick(
        self, gm: fx.GraphModule, *, rounds: int, lowered: Collection[str] = (), beside: str | None = None
    ) -> dict[str, Latency]:
        """``gm`` on the fused operator and lowered in ONNX runtimes, and the original in the runtime ``beside``."""
        runners = {
            "torch": torch_runner(fast_form(gm), self._example),
            "torch_channels_last": torch_runner(packed_form(gm), self._example),
        }
        if beside is not None:
            runners[ORIGINAL] = self._runners[ORIGINAL, beside]
        if self._int16:
            runners[INT16] = torch_runner(int16_form(gm), self._example)
        chosen = [name for name in ONNX_RUNTIMES if name in lowered and name not in self.unavailable]
        if chosen:
            path = Path(self._folder.name) / "trial.onnx"
            try:
                with torch_threads(self._threads):
                    path.write_bytes(onnx_bytes(reexport(lower(gm), self._example)))
                    for name in chosen:
                        runners[name] = FILE_RUNNERS[name](path, self._example, threads=self._threads)
            except AslconvertError as error:
                # The plan goes on with the fused operator, which the report is to say.
                self.unavailable.setdefault(f"{' and '.join(chosen)} of stand-ins", error.message)
        return self._measure(runners, rounds=rounds, planning=True)

    @staticmethod
    def packed_wins(timed: Mapping[str, Latency]) -> bool:
        """Whether a variant's latencies by runtime are lower in channels_last."""
        packed = timed.get("torch_channels_last")
        return packed is not None and packed.p50_ms < timed["torch"].p50_ms

    def fastest_original(self, *, rounds: int) -> tuple[str, float]:
        """The original's fastest runtime and its median in milliseconds."""
        runners = {runtime: run for (name, runtime), run in self._runners.items() if name == ORIGINAL}
        timed = self._measure(runners, rounds=rounds, planning=True)
        best = min(timed, key=lambda runtime: timed[runtime].p50_ms)
        return best, timed[best].p50_ms

    def _measure(
        self, runners: Mapping[str, Callable[[], Any]], *, rounds: int, planning: bool = False
    ) -> dict[str, Latency]:
        clock = planning_clock(self._threads) if planning else time.perf_counter_ns
        with torch_threads(self._threads), pinned(self._threads) as self.pinned:
            return measure(runners, rounds=rounds, seed=self._seed, clock=clock)

    def _add_onnx(self, name: str, build: Callable[[], fx.GraphModule]) -> None:
        path = Path(self._folder.name) / f"{name}.onnx"

        def written() -> Path:
            if not path.exists():
                # Fixed shapes, as a deployment that is tuned for speed would have them: original and variants alike.
                path.write_bytes(onnx_bytes(reexport(build(), self._example)))
            return path

        self._add_file(name, written)

    def _add_file(self, name: str, written: Callable[[], Path]) -> None:
        for runtime, runner in FILE_RUNNERS.items():
            self._try(name, runtime, lambda run=runner: run(written(), self._example, threads=self._threads))  # type: ignore[misc]

    def _try(self, name: str, runtime: str, build: Callable[[], Callable[[], Any]]) -> None:
        if runtime in self.unavailable:
            return
        try:
            # Compiled code is made for the number of threads it will run on.
            with torch_threads(self._threads):
                self._runners[name, runtime] = build()
        except AslconvertError as error:
            if name == ORIGINAL:
                self.unavailable[runtime] = error.message
            else:
                self.unavailable[f"{runtime} of {name}"] = error.message


def fastest_of(latency: Mapping[str, Latency]) -> str:
    """The runtime of the lowest median."""
    return min(latency, key=lambda runtime: latency[runtime].p50_ms)


def scored_form(gm: fx.GraphModule, latency: Mapping[str, Latency]) -> tuple[Precision, fx.GraphModule]:
    """What a variant's accuracy is measured on: ``gm`` itself, or its 16-bit form where that runs fastest."""
    if fastest_of(latency) == INT16:
        return "int16", int16_form(gm)
    return "float32", gm


def latency_values(table: Mapping[str, Latency]) -> dict[str, LatencyValue]:
    """The report's form of a measurement."""
    return {
        runtime: LatencyValue(
            p50_ms=value.p50_ms, p95_ms=value.p95_ms, ci=(value.ci_low, value.ci_high), drift=value.drift
        )
        for runtime, value in table.items()
    }
