"""One architecture through the whole engine, and what must hold of it at each step."""

from __future__ import annotations

import _thread
import json
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aslconvert.converter.errors import AslconvertError, ModelRefused
from aslconvert.converter.export.verify import verify_dir
from aslconvert.converter.export.write import left_out, write_artifacts
from aslconvert.converter.fit.layerwise import exact_block, fit_layerwise
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.ir.precision import ROUNDINGS, as_double
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.prepare import prepare
from aslconvert.converter.passes.replace_sites import replace_sites
from zoo.nets import Missing, Net
from zoo.sane import make_sane, smooth_images

EXACT_DOUBLE = 1e-10
"""Allowed difference of the form with all taps in float64, relative to the largest output."""

EXACT = 1e-5
"""The same in float32, unless the network's own rounding is greater."""

VISIBLE = 1e-3
"""The fitted form differs from the original by at least this much, or the comparison would see no error either."""

LIMITS = {"exact": EXACT, "exact_double": EXACT_DOUBLE, "roundings": ROUNDINGS}
"""What the page tells of them."""

KINDS = ("portable", "onnx")
BATCHES = 2
CONVOLUTIONS = nn.modules.conv._ConvNd


class NotMet(Exception):
    """A promise that the engine did not keep, by a stable code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class OutOfTime(BaseException):
    """No Exception: the engine tries sizes and exporters in turn and would take it for a failed attempt."""


@dataclass
class Outcome:
    """What is written of one network; differences are relative to the largest output but for the artifacts'."""

    name: str
    origin: str
    note: str = ""
    status: str = "failed"
    reason: str = ""
    sites: int = 0
    converted: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    exactness: float | None = None
    exactness_float64: float | None = None
    rounding: float | None = None
    fitted_difference: float | None = None
    dynamic: dict[str, dict[str, list[int | None]]] = field(default_factory=dict)
    shapes: list[list[list[int]]] = field(default_factory=list)
    artifacts: dict[str, float] = field(default_factory=dict)
    tolerances: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds the processor's seconds of a step, also of one that fails: a busy machine makes them no more."""
        start = _processor_seconds()
        try:
            yield
        finally:
            self.seconds[step] = round(_processor_seconds() - start, 2)


def _processor_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    return sum(os.times()[:4])


def check_net(net: Net, folder: Path, *, limit_s: float = 300, kinds: Sequence[str] = KINDS) -> Outcome:
    """Run everything for ``net``; artifacts lie in ``folder`` meanwhile. What goes wrong is in the outcome."""
    outcome = Outcome(net.name, net.origin, net.note)
    try:
        with _alarm(limit_s):
            _check(net, folder, outcome, kinds)
    except Missing as missing:
        outcome.status, outcome.reason = "refused", f"not_installed: {missing}"
    except ModelRefused as error:
        outcome.status, outcome.reason = "refused", f"{error.code}: {error.message}"
    except (NotMet, AslconvertError) as error:
        outcome.reason = f"{error.code}: {error.message}"
    except OutOfTime:
        outcome.reason = f"time_limit: took more than {limit_s} s of the processor"
    # Whatever a network breaks is the finding that the run is for.
    except Exception as error:  # noqa: BLE001
        lines = str(error).strip().splitlines()
        outcome.reason = f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _check(net: Net, folder: Path, outcome: Outcome, kinds: Sequence[str]) -> None:
    torch.manual_seed(0)
    example = smooth_images(net.shape, seed=1)
    with outcome.timed("build"):
        model = make_sane(net.build(), example)
    names, called = set(model.state_dict()), _called(model, example)
    with outcome.timed("export"):
        program = export_model(model, (example,), name=net.name)
    outcome.dynamic = sizes_of(program)
    with outcome.timed("inspect"):
        prepared = prepare(graph_module(program))
        sites, refusals = find_sites(prepared)
    outcome.sites, outcome.converted = len(sites) + len(refusals), len(sites)
    outcome.kept = dict(sorted(Counter(refusal.code for refusal in refusals).items()))
    _all_named(called, [site.name for site in sites] + [refusal.name for refusal in refusals])
    if not sites:
        codes = ", ".join(f"{count} {code}" for code, count in outcome.kept.items())
        outcome.status, outcome.reason = "refused", f"nothing_to_convert: {codes or 'no convolution'}"
        return
    with outcome.timed("exactness"):
        _exactness(prepared, sites, example, outcome)
    folded = fold_batch_norm(prepared)
    sites, _ = find_sites(folded)
    fitted = _fit(folded, sites, net.shape, outcome)
    with outcome.timed("artifacts"), torch.no_grad():
        outcome.fitted_difference = difference(fitted(example), folded(example))
        if not outcome.fitted_difference >= VISIBLE:
            raise NotMet("vacuous", f"the fitted form differs by {outcome.fitted_difference:.2g}: nothing is compared")
        write_artifacts(folder, fitted, program, inputs=(example,), kinds=kinds)
        for result in verify_dir(folder):
            outcome.artifacts[result["kind"]] = result["max_abs_diff"]
            outcome.tolerances[result["kind"]] = result["tolerance"]
    if missing := left_out(folder):
        raise NotMet("left_out", "; ".join(f"{kind}: {why}" for kind, why in missing.items()))
    portable = torch.export.load(folder / "portable.pt2")
    _sizes_kept(program, portable, folder, outcome)
    _names_kept(program, portable, names, sites)
    outcome.status = "ok"


def _called(model: nn.Module, example: Tensor) -> set[str]:
    """Names of the convolutions that a forward pass runs, whatever a graph says."""
    found: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        return lambda *_: found.add(name)

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    with torch.no_grad():
        model(example)
    for handle in handles:
        handle.remove()
    return found


def _all_named(called: set[str], told: list[str]) -> None:
    """Every convolution that runs has its line, under its own name or that name with a suffix for another call."""
    if len(set(told)) != len(told):
        raise NotMet("names_clash", "two sites have one name")
    lost = [
        name
        for name in called
        if not any(
            t == name or (t not in called and t.startswith((f"{name}.", f"{name}_", f"{name}@", f"{name}#")))
            for t in told
        )
    ]
    if lost:
        raise NotMet("site_lost", f"no line on {', '.join(sorted(lost)[:5])} ({len(lost)} of {len(called)})")


def _exactness(gm: fx.GraphModule, sites: list[ConvSite], example: Tensor, outcome: Outcome) -> None:
    double = as_double(gm)
    with torch.no_grad():
        # A graph may write into its input.
        truth = double(example.double())
        outcome.rounding = max(difference(form(example.clone()), truth) for form in (gm, fold_batch_norm(gm)))
    outcome.exactness = _worst_of_forms(gm, sites, example)
    outcome.exactness_float64 = _worst_of_forms(double, find_sites(double)[0], example.double())
    if not (
        outcome.exactness_float64 <= EXACT_DOUBLE and outcome.exactness <= max(EXACT, ROUNDINGS * outcome.rounding)
    ):
        raise NotMet(
            "inexact",
            f"all taps differ by {outcome.exactness_float64:.2g} in float64, and by {outcome.exactness:.2g} in "
            f"float32, where the original alone is off by {outcome.rounding:.2g}",
        )


def _worst_of_forms(gm: fx.GraphModule, sites: list[ConvSite], example: Tensor) -> float:
    """With batch norms as they are, and folded and lowered to standard operators."""
    converted = replace_sites(gm, {site.name: exact_block(gm, site) for site in sites})
    with torch.no_grad():
        expected = gm(example.clone())
        worst = difference(converted(example.clone()), expected)
        return max(worst, difference(lower(fold_batch_norm(converted))(example.clone()), expected))


def difference(given: Any, expected: Any) -> float:
    """The greatest difference of any output relative to the largest value of that output; shapes must agree."""
    pairs = list(zip(pytree.tree_leaves(given), pytree.tree_leaves(expected), strict=True))
    worst = 0.0
    for a, b in pairs:
        if not isinstance(b, Tensor) or not b.is_floating_point():
            continue
        if a.shape != b.shape or not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
            raise NotMet("bad_output", f"shapes {tuple(a.shape)} and {tuple(b.shape)}, or numbers that are not finite")
        worst = max(worst, float((a.double() - b.double()).abs().max() / b.abs().max().clamp(min=1e-12)))
    return worst


def _fit(gm: fx.GraphModule, sites: list[ConvSite], shape: tuple[int, ...], outcome: Outcome) -> fx.GraphModule:
    """Fitted with as many rows as channels, on a few images."""
    batches = [(smooth_images(shape, seed=2 + index),) for index in range(BATCHES)]
    rows = {site.name: min(site.in_channels, site.exact_rows) for site in sites}
    with outcome.timed("fit"):
        fits = fit_layerwise(gm, sites, rows, batches)
    bad = [name for name, fit in fits.items() if not 0 <= fit.error <= 1.0001]
    if bad or len(fits) != len(sites):
        raise NotMet("bad_fit", f"{len(fits)} of {len(sites)} sites fitted; worse than nothing: {', '.join(bad[:5])}")
    return replace_sites(gm, {name: fit.block for name, fit in fits.items()})


def sizes_of(program: ExportedProgram) -> dict[str, dict[str, list[int | None]]]:
    """Per input and dynamic axis its range [least, greatest or None]."""
    found: dict[str, dict[str, list[int | None]]] = {}
    wanted = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or node.name not in wanted or not isinstance(value, Tensor):
            continue
        axes = {}
        for axis, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt):
                axes[str(axis)] = _range(program, size.node.expr)
        found[node.name] = axes
    return found


def _range(program: ExportedProgram, expression: Any) -> list[int | None]:
    ends: list[int | None] = []
    for end in ("lower", "upper"):
        known = {s: getattr(program.range_constraints[s], end) for s in expression.free_symbols}
        value = expression.subs(known)
        ends.append(int(value) if value.is_Integer and int(value) < 2**31 else None)
    return ends


def _sizes_kept(original: ExportedProgram, portable: ExportedProgram, folder: Path, outcome: Outcome) -> None:
    before, after = list(sizes_of(original).values()), list(sizes_of(portable).values())
    if before != after:
        raise NotMet("sizes_changed", f"dynamic sizes were {before} and are {after} in the reloaded program")
    tensors = load_file(folder / "check.safetensors")
    cases = json.loads((folder / "artifacts.json").read_text())["check"]["cases"]
    outcome.shapes = [[list(tensors[i["tensor"]].shape) for i in case["inputs"] if "tensor" in i] for case in cases]
    dynamic = {int(axis) for axes in before for axis in axes}
    seen = {axis for axis in dynamic for other in outcome.shapes[1:] if other[0][axis] != outcome.shapes[0][0][axis]}
    if dynamic - seen:
        raise NotMet("sizes_untried", f"axes {sorted(dynamic - seen)} may change and were compared at one size only")


def _names_kept(original: ExportedProgram, portable: ExportedProgram, names: set[str], sites: list[ConvSite]) -> None:
    """Every tensor has its old name, or is the new part of a converted or folded layer that has it."""
    layers = {name.rpartition(".")[0] for name in names} | {site.name for site in sites}
    layers |= {site.weight_target.rpartition(".")[0] or site.weight_target for site in sites}
    constants = {*original.state_dict, *original.constants}
    strange = [
        name
        for name in (*portable.state_dict, *portable.constants)
        if name not in names
        and name not in constants
        and name.rpartition(".")[0].removesuffix("_asl") not in layers | names
        and not name.startswith(("_lifted", "lifted", "_tensor_constant"))
    ]
    if strange:
        raise NotMet("names_changed", f"tensors of no layer: {', '.join(strange[:5])} ({len(strange)})")


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Ends the block after ``seconds`` of this process's processor time; what runs in others has limits of its own."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    def watch() -> None:
        began = process_time()
        while not done.wait(min(seconds, 1.0) / 10):
            if process_time() - began > seconds:
                # No signal is sent, as if one had come: real ones may end up on threads and stacks of libraries.
                _thread.interrupt_main(signal.SIGUSR2)
                return

    done = threading.Event()
    before = signal.signal(signal.SIGUSR2, stop)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        signal.signal(signal.SIGUSR2, before)


def as_record(outcome: Outcome) -> dict[str, Any]:
    """The outcome as it stands in zoo.json."""
    return asdict(outcome)
