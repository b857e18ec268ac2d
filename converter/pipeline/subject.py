"""What is being converted: the model, its sites, the data, and samples drawn for each purpose."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from aslconvert.converter.data.dataset import Dataset
from aslconvert.converter.data.inputs import InputSpec, model_inputs
from aslconvert.converter.data.load import load_for_model
from aslconvert.converter.data.made_up import made_up
from aslconvert.converter.data.metrics import flatten
from aslconvert.converter.data.synthetic import NO_DATA, synthetic_dataset
from aslconvert.converter.errors import NothingToConvert, UsageError
from aslconvert.converter.heal.pool import draw_samples
from aslconvert.converter.importers.model import model_name, open_model
from aslconvert.converter.inspection import KEPT_BY_USER
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.site import ConvSite, Refusal
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.prepare import prepare

CALIBRATION_PIXELS = 1 << 20
"""Input positions that calibration reads: more still helps the fit, but each costs time in every variant."""

MIN_CALIBRATION = 16
CALIBRATION_BATCH = 16


@dataclass(frozen=True)
class Subject:
    """``gm`` is the original, prepared and with batch norms folded: the teacher, and what plans are applied to.

    ``example`` is one batch of real samples, of the size asked for (or one): latency is measured on it.
    """

    name: str
    source: str
    sha256: str | None
    program: ExportedProgram
    original: fx.GraphModule
    gm: fx.GraphModule
    specs: tuple[InputSpec, ...]
    sites: tuple[ConvSite, ...]
    refusals: tuple[Refusal, ...]
    data: Dataset
    example: tuple[Tensor, ...]
    fixed_batch: int | None

    @property
    def fingerprint(self) -> str:
        """Identifies model and data, so that a resumed run continues the same work."""
        digest = hashlib.sha256(self.program.graph_module.code.encode())
        for name, value in sorted({**self.program.constants, **self.program.state_dict}.items()):
            digest.update(name.encode())
            digest.update(_bytes_of(value) if isinstance(value, Tensor) else b"")
        digest.update(self.data.groups.tobytes() + self.data.splits.tobytes())
        for tensor in self.example:
            digest.update(_bytes_of(tensor))
        return digest.hexdigest()

    def calibration(self, options: ConvertOptions, *, pixels: int = CALIBRATION_PIXELS) -> list[tuple[Tensor, ...]]:
        """Batches of the calibration split, of about ``pixels`` input positions in all."""
        subset = self.data.split("calibrate")
        side = options.heal_crop.size if options.heal_crop else None
        each = max((x.shape[2:].numel() for x in self.example if x.dim() == 4), default=1) if side is None else side**2
        count = max(pixels // each, MIN_CALIBRATION, self.fixed_batch or 1)
        samples = draw_samples(subset, count, crop=options.heal_crop, seed=options.seed)
        size = self.fixed_batch or CALIBRATION_BATCH
        starts = range(0, len(samples[0]), size)
        batches = [tuple(x[start : start + size] for x in samples) for start in starts]
        return [batch for batch in batches if self.fixed_batch is None or len(batch[0]) == size]


def _bytes_of(tensor: Tensor) -> bytes:
    # By way of bytes, since numpy does not know every type.
    return tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()


def open_subject(
    model: str, *, data: str | None, options: ConvertOptions, program: ExportedProgram | None = None
) -> Subject:
    """Load the model and the data, and find the sites. Without ``data`` samples are made up.

    ``program`` is the model where it is loaded already.

    Raises:
        ModelRefused: the model cannot be loaded.
        NothingToConvert: no convolution can be rewritten; the message says why, site by site.
        UsageError: the data does not fit, or the model does not give finite outputs on it.
    """
    program = open_model(model) if program is None else program
    original = graph_module(program)
    prepared = prepare(original)
    gm = fold_batch_norm(prepared)
    found, refused = find_sites(gm)
    kept = [site for site in found if any(fnmatch.fnmatchcase(site.name, pattern) for pattern in options.keep)]
    refused += [Refusal(site.name, site.node, KEPT_BY_USER, "Kept, as asked by --keep.", site=site) for site in kept]
    sites = tuple(site for site in found if site not in kept)
    if not sites:
        raise NothingToConvert("nothing_to_convert", _why_not(refused))
    specs = model_inputs(program)
    fixed = specs[0].shape[0] if specs else None
    if data is None:
        # The graph may call its inputs otherwise than the program does; their order is the same.
        inputs = [node for node in original.graph.nodes if node.op == "placeholder" and "shape" in node.meta]
        shapes = {spec.name: node.meta["shape"] for spec, node in zip(specs, inputs, strict=True)}
        dataset = made_up(specs, shapes, each=max(fixed or 1, options.batch or 1), seed=options.seed)
    elif data == NO_DATA:
        # Folding takes the statistics away.
        dataset = synthetic_dataset(prepared, specs, size=options.size, seed=options.seed)
    else:
        dataset = load_for_model(data, specs, options)
    _check_crop(specs, options)
    for name, count in dataset.samples_by_split.items():
        if count < (fixed or 1):
            raise UsageError(
                "too_few_samples",
                f"The model wants batches of {fixed or 1}, the {name} split has {count} samples.",
                hint="Give more data, or export the model with a dynamic batch.",
            )
    test = dataset.split("test")
    example = test.batch(range(_latency_batch(fixed, options.batch, len(test)))).inputs
    _check_outputs(gm, example)
    path = Path(model)
    return Subject(
        name=model_name(model),
        source=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None,
        program=program,
        original=original,
        gm=gm,
        specs=specs,
        sites=sites,
        refusals=tuple(refused),
        data=dataset,
        example=example,
        fixed_batch=fixed,
    )


def _latency_batch(fixed: int | None, asked: int | None, available: int) -> int:
    if fixed is not None:
        if asked is not None and asked != fixed:
            raise UsageError("batch", f"The model takes batches of {fixed} only, {asked} were asked for.")
        return fixed
    if asked is not None and asked > available:
        raise UsageError("batch", f"The test split has {available} samples, a batch of {asked} was asked for.")
    return asked or 1


def _why_not(refused: Sequence[Refusal]) -> str:
    if not refused:
        return "The model has no convolution at all."
    counts: dict[str, int] = {}
    for refusal in refused:
        counts[refusal.code] = counts.get(refusal.code, 0) + 1
    told = ", ".join(f"{count} {code}" for code, count in sorted(counts.items()))
    return f"None of the model's {len(refused)} convolutions can be rewritten: {told}."


def _check_crop(specs: Sequence[InputSpec], options: ConvertOptions) -> None:
    crop = options.heal_crop
    if crop is None:
        return
    for spec in specs:
        fixed = [size for size in spec.shape[2:] if size is not None]
        if len(spec.shape) == 4 and any(size != crop.size for size in fixed):
            raise UsageError(
                "heal_crop",
                f"The model takes only {fixed} pixels: crops of {crop.size} do not fit.",
                hint="Export it with dynamic height and width, or leave --heal-crop away.",
            )


def _check_outputs(gm: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
    try:
        with torch.no_grad():
            outputs = [o for o in flatten(gm(*example)) if o.is_floating_point()]
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError("data_shape", f"The model does not run on a sample of the data: {first}") from error
    if not outputs:
        raise UsageError("no_float_output", "The model gives no floating-point output to compare.")
    if any(not torch.isfinite(o).all() for o in outputs):
        raise UsageError("output_not_finite", "The original gives NaN or infinite outputs on the data.")
