"""Finds `arch:NAME[@weights.safetensors]` among the sources, builds it and exports it."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch
from torch.export import ExportedProgram

from aslconvert.converter.errors import InfrastructureError, ModelRefused
from aslconvert.converter.importers.architectures.entry_points import GROUP, EntryPoints
from aslconvert.converter.importers.architectures.of_pytorchcv import PytorchCv
from aslconvert.converter.importers.architectures.of_transformers import Transformers
from aslconvert.converter.importers.architectures.source import Made, Source
from aslconvert.converter.importers.architectures.weights import load_weights
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.ir.quiet import quiet

PREFIX = "arch:"
SEED = 0
"""Random weights are the same in every run."""

SOURCES: dict[str, Source] = {"plugin": EntryPoints(), "transformers": Transformers(), "pytorchcv": PytorchCv()}
"""By the prefix that names one source; a bare name is looked up in this order."""


def is_architecture(spec: str) -> bool:
    """Whether ``spec`` reads as ``arch:NAME``."""
    return spec.startswith(PREFIX) and not Path(spec).exists()


def load_architecture(spec: str) -> ExportedProgram:
    """The program of ``arch:NAME`` with random weights, or of ``arch:NAME@weights.safetensors``.

    NAME is bare (``resnet-18``) or says its source (``pytorchcv/resnet18``).

    Raises:
        ModelRefused: ``unknown_architecture`` (its hint lists what there is), ``architecture_failed``,
            ``weights_not_found``, ``weights_unreadable``, ``weights_mismatch`` or ``export_failed``.
        InfrastructureError: ``missing_package``.
    """
    name, at, weights = spec.removeprefix(PREFIX).partition("@")
    if at and not weights:
        raise ModelRefused("weights_not_found", f"'{spec}' names no file after '@'.")
    model, example = _build(name)
    if weights:
        load_weights(model, Path(weights))
    return export_model(model, example, name=f"'{spec}'")


def list_architectures() -> dict[str, list[str]]:
    """The names of every source."""
    return {prefix: list(source.names()) for prefix, source in SOURCES.items()}


def _build(name: str) -> Made:
    source, bare = _find(name)
    # The caller's own random numbers go on as if nothing had happened.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        try:
            with quiet():
                return source.build(bare)
        except ImportError as error:
            raise InfrastructureError(
                "missing_package", f"'{name}' needs a package that is missing: {error}.", hint=source.install
            ) from error
        except Exception as error:
            raise ModelRefused(
                "architecture_failed", f"'{name}' could not be built: {type(error).__name__}: {error}"
            ) from error


def _find(name: str) -> tuple[Source, str]:
    prefix, slash, rest = name.partition("/")
    if slash and prefix in SOURCES:
        source = SOURCES[prefix]
        if rest and source.install and not source.names():
            raise InfrastructureError(
                "missing_package", f"'{prefix}' is not installed.", hint=f"Get it with: {source.install}"
            )
        if rest and source.knows(rest):
            return source, rest
        raise _unknown(rest, {prefix: list(source.names())})
    for source in SOURCES.values():
        if name and source.knows(name):
            return source, name
    raise _unknown(name, list_architectures())


def _unknown(name: str, known: dict[str, list[str]]) -> ModelRefused:
    whole = [f"{prefix}/{entry}" for prefix, names in known.items() for entry in names]
    by_bare = {entry: f"{prefix}/{entry}" for prefix, names in known.items() for entry in names}
    if len(known) == 1 and not name:
        return ModelRefused("unknown_architecture", "No architecture is named.", hint="Known: " + ", ".join(whole))
    close = [by_bare[match] for match in difflib.get_close_matches(name, by_bare, n=5, cutoff=0.5)]
    counts = [
        f"{prefix}/ ({len(names)}: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''})"
        for prefix, names in known.items()
        if names
    ]
    told = f"Close to it: {', '.join(close)}. " if close else ""
    sources = "; ".join(counts) or f"none is installed ({Transformers.install}; {PytorchCv.install})"
    hint = f"{told}Known: {sources}. All of one source: arch:pytorchcv/. Others come from the entry points {GROUP}."
    return ModelRefused("unknown_architecture", f"There is no architecture '{name}'.", hint=hint)
