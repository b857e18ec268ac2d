"""Tells what a conversion would do with a model and its data, and does nothing of it."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from torch.export import ExportedProgram

from aslconvert.converter.data.dataset import Dataset
from aslconvert.converter.data.inputs import model_inputs
from aslconvert.converter.data.load import load_for_model
from aslconvert.converter.importers.model import open_model
from aslconvert.converter.ir.dims import shape_notes
from aslconvert.converter.ir.graph import find_sites, graph_module, notes_of
from aslconvert.converter.ir.site import ConvSite, Refusal
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.prepare import prepare

KEPT_BY_USER = "kept_by_user"
"""Reason code of a site that matches a ``keep`` pattern."""


@dataclass(frozen=True, kw_only=True)
class InspectedSite:
    """One convolution: converted, or kept with a stable reason code and a sentence.

    ``macs_after`` counts one shifted row for each input channel, the middle of what a plan may choose.
    """

    name: str
    kind: str
    action: str
    reason: str = ""
    message: str = ""
    kernel: tuple[int, ...] = ()
    in_channels: int | None = None
    out_channels: int | None = None
    input_shape: tuple[int, ...] = ()
    macs: int | None = None
    macs_after: int | None = None


@dataclass(frozen=True, kw_only=True)
class InspectedData:
    """What the model would see of the data: value ranges and shapes are those of a few prepared samples."""

    source: str
    preprocessing: str
    samples: dict[str, int]
    groups: dict[str, int]
    shapes: tuple[tuple[int, ...], ...]
    ranges: tuple[tuple[float, float], ...]
    has_target: bool
    has_label: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class InspectReport:
    """``macs`` and ``macs_after`` are the sums over ``sites``, kept ones included, and ``predicted_gain`` their ratio.

    Only measuring tells time.
    """

    model: str
    inputs: tuple[str, ...]
    sites: tuple[InspectedSite, ...]
    macs: int
    macs_after: int
    predicted_gain: float
    data: InspectedData | None
    notes: tuple[str, ...]


def inspect(
    model: str,
    *,
    data: str | None = None,
    options: ConvertOptions | None = None,
    program: ExportedProgram | None = None,
) -> InspectReport:
    """Look at ``model``, and at what it would see of ``data``; nothing is written.

    ``program`` is the model where it is loaded already.

    Raises:
        ModelRefused: ``model`` cannot be loaded.
        UsageError: the data cannot be read or does not fit the model.
    """
    options = options or ConvertOptions()
    program = open_model(model) if program is None else program
    specs = model_inputs(program)
    gm = prepare(graph_module(program))
    found, refused = find_sites(gm)
    sites = [_site(site, options.keep) for site in found] + [_kept(refusal) for refusal in refused]
    macs, after = sum(site.macs or 0 for site in sites), sum(site.macs_after or 0 for site in sites)
    seen = None
    if data is not None:
        seen = _seen(load_for_model(data, specs, options))
    return InspectReport(
        model=model,
        inputs=tuple(map(str, specs)),
        sites=tuple(sites),
        macs=macs,
        macs_after=after,
        predicted_gain=macs / after if after else 1.0,
        data=seen,
        notes=(*shape_notes(program), *notes_of(gm)),
    )


def _site(site: ConvSite, keep: Sequence[str]) -> InspectedSite:
    pattern = _matches(site.name, keep)
    return InspectedSite(
        name=site.name,
        kind=site.op,
        action="asl" if pattern is None else "keep",
        reason="" if pattern is None else KEPT_BY_USER,
        message="" if pattern is None else f"It matches '{pattern}'.",
        kernel=site.geometry.kernel,
        in_channels=site.in_channels,
        out_channels=site.out_channels,
        input_shape=site.input_shape,
        macs=site.macs,
        macs_after=_macs_after(site) if pattern is None else site.macs,
    )


def _kept(refusal: Refusal) -> InspectedSite:
    site = refusal.site
    if site is None:
        return InspectedSite(
            name=refusal.name, kind="convolution", action="keep", reason=refusal.code, message=refusal.message
        )
    return InspectedSite(
        name=refusal.name,
        kind=site.op,
        action="keep",
        reason=refusal.code,
        message=refusal.message,
        kernel=site.geometry.kernel,
        in_channels=site.in_channels,
        out_channels=site.out_channels,
        input_shape=site.input_shape,
        macs=site.macs,
        macs_after=site.macs,
    )


def _matches(name: str, keep: Sequence[str]) -> str | None:
    return next((pattern for pattern in keep if fnmatch.fnmatchcase(name, pattern)), None)


def _macs_after(site: ConvSite) -> int:
    # A row reads 2^D taps of its channel; the 1x1 convolution then mixes as many rows as there were channels.
    pixels = site.macs * site.groups // (site.in_channels * site.out_channels * site.geometry.taps)
    return int(pixels * site.in_channels * (2 ** len(site.geometry.kernel) + site.block_outputs // site.row_groups))


def _seen(dataset: Dataset) -> InspectedData:
    sample = dataset.split("calibrate").take(8)
    inputs = sample.batch(range(len(sample))).inputs if len(sample) else ()
    return InspectedData(
        source=dataset.source,
        preprocessing=dataset.preprocessing,
        samples=dataset.samples_by_split,
        groups=dataset.groups_by_split,
        shapes=tuple(tuple(x.shape[1:]) for x in inputs),
        ranges=tuple((float(x.min()), float(x.max())) for x in inputs),
        has_target=dataset.target is not None,
        has_label=dataset.label is not None,
        notes=dataset.notes,
    )
