"""Which way of quantising a file loses least: a few recipes tried one upon the other, each judged by its outputs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aslconvert.converter.errors import InternalError
from aslconvert.converter.export.bias import corrected
from aslconvert.converter.export.equalise import equalised
from aslconvert.converter.export.int8 import feeds, int8_bytes, open_session
from aslconvert.converter.export.kept_layers import costly_layers, with_activations
from aslconvert.converter.export.onnx_graph import Array

LEAST_GAIN = 0.02
"""Share of the error that a step must take off to be kept."""

LEAST_GAIN_KEPT = 0.1
"""The same for layers in float, which cost time."""

SECONDS = 60.0
"""A step that would begin later than this is left out."""

Batches = Sequence[tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a file is quantised; ``kept`` names the nodes that stay in float."""

    equalised: bool = False
    corrected: bool = False
    seven_bits: bool = False
    kept: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In words."""
        layers = f"{len(self.kept)} layer{'s' if len(self.kept) > 1 else ''} in float"
        parts = [
            "min-max",
            "equalised" if self.equalised else "",
            "bias corrected" if self.corrected else "",
            "7-bit weights" if self.seven_bits else "",
            layers if self.kept else "",
        ]
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class Trial:
    """A recipe, its file, and the relative L2 distance of its outputs to those of the file in float."""

    recipe: Recipe
    data: bytes
    error: float


@dataclass(frozen=True)
class Found:
    """``plain`` is the quantiser's own way, ``best`` the recipe with every layer in 8 bits, ``mixed`` one with some in
    float, where that takes off a tenth of the error; ``left_out`` says why of each step that could not be taken."""

    plain: Trial
    best: Trial
    mixed: Trial | None
    left_out: dict[str, str]


def quantise(model: bytes, batches: Batches, recipe: Recipe) -> bytes:
    """The ONNX file ``model`` in 8 bits by ``recipe``; ``batches`` are flat inputs of calibration.

    Raises:
        InternalError: ``int8_failed``.
    """
    source = equalised(model, batches) if recipe.equalised else model
    kept = with_activations(source, recipe.kept) if recipe.kept else ()
    data = int8_bytes(source, batches, kept=kept, seven_bits=recipe.seven_bits)
    return corrected(source, data, batches) if recipe.corrected else data


def find_recipe(model: bytes, batches: Batches, judged: Batches, *, vnni: bool, seconds: float = SECONDS) -> Found:
    """The recipe that brings the outputs of the ONNX file ``model`` on ``judged`` closest to those in float.

    ``batches`` and ``judged`` are flat inputs, of samples that differ. ``vnni`` says that the processor adds 8-bit
    products up without saturation: else weights of 7 bits are tried too.

    Raises:
        InternalError: ``int8_failed``, when not even the plain recipe works.
    """
    until = time.monotonic() + seconds
    exact = outputs(model, judged)
    left_out: dict[str, str] = {}

    def tried(recipe: Recipe) -> Trial:
        data = quantise(model, batches, recipe)
        return Trial(recipe, data, distance(outputs(data, judged), exact))

    plain = best = tried(Recipe())
    steps = [] if vnni else [{"seven_bits": True}]
    steps += [{"equalised": True}, {"corrected": True}]
    for step in steps:
        recipe = replace(best.recipe, **step)  # type: ignore[arg-type]  # of the fields' own types
        try:
            trial = tried(_in_time(recipe, until))
        except InternalError as error:
            left_out[recipe.name] = error.message
            continue
        if trial.error < (1 - LEAST_GAIN) * best.error:
            best = trial
    mixed = None
    try:
        _in_time(best.recipe, until)
        source = equalised(model, batches) if best.recipe.equalised else model
        kept = costly_layers(source, best.data, judged, exact)
        # Layer by layer: what the next one in float gains may depend on its neighbour.
        for count in range(1, len(kept) + 1):
            trial = tried(_in_time(replace(best.recipe, kept=kept[:count]), until))
            if trial.error < (1 - LEAST_GAIN_KEPT) * best.error and (mixed is None or trial.error < mixed.error):
                mixed = trial
    except InternalError as error:
        left_out["layers in float"] = error.message
    return Found(plain, best, mixed, left_out)


def outputs(model: bytes, batches: Batches) -> list[Array]:
    """The file's outputs on each of ``batches`` (flat inputs), those of floating point."""
    session = open_session(model)
    return [
        value
        for given in feeds(session, batches)
        for value in session.run(None, given)
        if np.issubdtype(value.dtype, np.floating)
    ]


def distance(given: Sequence[Array], wanted: Sequence[Array]) -> float:
    """Relative L2 distance over everything."""
    off = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(given, wanted, strict=True))
    size = sum(float(np.square(b.astype(np.float64)).sum()) for b in wanted)
    return float((off / max(size, 1e-30)) ** 0.5)


def _in_time(recipe: Recipe, until: float) -> Recipe:
    if time.monotonic() > until:
        raise InternalError("int8_failed", "There was no time left to try it.")
    return recipe
