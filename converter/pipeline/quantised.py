"""Variants in 8 bits: the original and every float variant, each quantised by the recipe that loses least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from aslconvert.converter.cost.device import device_profile
from aslconvert.converter.errors import AslconvertError
from aslconvert.converter.export.int8 import open_session, run_onnx
from aslconvert.converter.export.onnx import onnx_bytes
from aslconvert.converter.export.onnx_graph import enough
from aslconvert.converter.export.recipes import Found, Recipe, Trial, distance, find_recipe, outputs, quantise
from aslconvert.converter.export.reexport import Reexport
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.subject import CALIBRATION_BATCH, Subject
from aslconvert.converter.pipeline.timing import ORIGINAL
from aslconvert.converter.pipeline.variants import Made
from aslconvert.converter.progress import Progress

SUFFIX, MIXED = "-int8", "-int8-mixed"

VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
"""What adds up products of 8 bits without saturation where there is AVX2; other kinds of processors do anyway."""

BUDGET_SHARE = 0.5
LEAST_SECONDS = 30.0
"""Of the budget, for searching the recipes of all files, on top of it; and what each of them gets at least."""

Choice = tuple[str, Trial, float, tuple[str, ...]]
"""The end of the id, the file, the plain recipe's error, and what was not tried."""


@dataclass(frozen=True)
class Quantised:
    """A file of 8 bits, made of ``made``.

    ``error`` and ``plain_error`` are relative L2 distances to it in float on validate samples: of this file, and of the
    quantiser's own way. ``untried`` are the recipes that there was no time for, or that failed, with the reason.
    """

    id: str
    made: Made
    data: bytes
    recipe: Recipe
    error: float
    plain_error: float
    untried: tuple[str, ...] = ()


def original_made(subject: Subject) -> Made:
    """The original as a variant that nothing was done to."""
    kept: dict[str, int | None] = dict.fromkeys((site.name for site in subject.sites), None)
    return Made(Planned(ORIGINAL, kept, 1.0, 1.0), subject.gm, {}, 0.0, 0, 0.0, 0.0)


def quantised_variants(
    made: Sequence[Made],
    subject: Subject,
    batches: Sequence[tuple[Tensor, ...]],
    options: ConvertOptions,
    progress: Progress,
    *,
    decided: Mapping[str, Recipe] | None = None,
) -> tuple[list[Quantised], dict[str, str]]:
    """The original and each of ``made`` in 8 bits, and with some layers in float where that loses clearly less.

    ``batches`` calibrate, samples of the validate split judge the recipes; ``decided`` repeats an earlier choice by id
    instead. Also the reason for each that cannot be had, by id.
    """
    judged = _judged(subject, batches)
    export = Reexport(subject.program)
    sources = [original_made(subject), *made]
    seconds = max(BUDGET_SHARE * options.budget_seconds / len(sources), LEAST_SECONDS)
    found: list[Quantised] = []
    left_out: dict[str, str] = {}
    for number, source in enumerate(sources):
        name = source.planned.id
        try:
            model = onnx_bytes(export(lower(source.gm)))
            trials = (
                _searched(model, batches, judged, seconds)
                if decided is None
                else _repeated(model, batches, judged, name, decided)
            )
        except AslconvertError as error:
            left_out[name + SUFFIX] = error.message
            progress.note(f"{name + SUFFIX} is left out: {error.message}")
            continue
        for suffix, trial, plain, untried in trials:
            found.append(Quantised(name + suffix, source, trial.data, trial.recipe, trial.error, plain, untried))
            progress.note(f"{name + suffix}: {trial.recipe.name}, off by {trial.error:.2%}; plain {plain:.2%}")
        progress.update(number + 1, len(sources), "files")
    return found, left_out


def search_recipe(
    model: bytes, batches: Sequence[tuple[Tensor, ...]], judged: Sequence[tuple[Tensor, ...]], *, seconds: float
) -> Found:
    """The recipe that suits the ONNX file ``model`` on this processor; see ``find_recipe``."""
    device = device_profile()
    vnni = "avx2" not in device.isa or any(flag in device.isa for flag in VNNI)
    return find_recipe(model, batches, judged, vnni=vnni, seconds=seconds)


def int8_form(data: bytes, runtime: str) -> Callable[..., Any]:
    """The file as a function of the model's inputs, in the ``runtime`` that it is timed in: they round differently."""
    if runtime != "openvino":
        session = open_session(data)
        names = [item.name for item in session.get_inputs()]
        return lambda *inputs: run_onnx(session, inputs, names)
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    single = [port.element_type == openvino.Type.f32 for port in compiled.inputs]

    def run(*inputs: Tensor) -> list[Tensor]:
        given = [(x.float() if f else x).contiguous().numpy() for x, f in zip(inputs, single, strict=True)]
        results = compiled(given)
        return [torch.from_numpy(results[port].copy()) for port in compiled.outputs]

    return run


def int8_records(quantised: Sequence[Quantised]) -> list[dict[str, Any]]:
    """What ``plan.json`` keeps of them."""
    return [{"id": item.id, **asdict(item.recipe)} for item in quantised]


def read_int8_records(rows: Sequence[Mapping[str, Any]]) -> dict[str, Recipe]:
    """The recipes by id that ``int8_records`` gave."""
    recipes = {}
    for row in rows:
        fields = dict(row)
        name = str(fields.pop("id"))
        recipes[name] = Recipe(**{**fields, "kept": tuple(fields["kept"])})
    return recipes


def _judged(subject: Subject, batches: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    size = subject.fixed_batch or CALIBRATION_BATCH
    subset = subject.data.split("validate")
    chosen = subset.take(max(enough([subset.batch([0]).inputs]), size))
    return [item.inputs for item in chosen.batches(size, drop_last=subject.fixed_batch is not None)] or list(
        batches[:1]
    )


def _searched(
    model: bytes, batches: Sequence[tuple[Tensor, ...]], judged: Sequence[tuple[Tensor, ...]], seconds: float
) -> list[Choice]:
    found = search_recipe(model, batches, judged, seconds=seconds)
    plain = found.plain.error
    untried = tuple(f"{name}: {reason}" for name, reason in found.left_out.items())
    mixed = [] if found.mixed is None else [(MIXED, found.mixed, plain, untried)]
    return [(SUFFIX, found.best, plain, untried), *mixed]


def _repeated(
    model: bytes,
    batches: Sequence[tuple[Tensor, ...]],
    judged: Sequence[tuple[Tensor, ...]],
    name: str,
    decided: Mapping[str, Recipe],
) -> list[Choice]:
    exact = outputs(model, judged)
    plain = distance(outputs(quantise(model, batches, Recipe()), judged), exact)
    trials: list[Choice] = []
    for suffix in (SUFFIX, MIXED):
        if (recipe := decided.get(name + suffix)) is not None:
            data = quantise(model, batches, recipe)
            trials.append((suffix, Trial(recipe, data, distance(outputs(data, judged), exact)), plain, ()))
    return trials
