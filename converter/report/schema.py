"""The versioned schema of report.json, the one record of what a conversion did and measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aslconvert.converter.cost.device import DeviceProfile
from aslconvert.converter.cost.spread import NO_DIFFERENCE, Verdict, verdict
from aslconvert.converter.errors import UsageError

SCHEMA_VERSION = 1

Runtime = str  # "torch", "torch_channels_last", "compile", "onnxruntime", "openvino"; of variants "torch_int16" too
Precision = Literal["float32", "int16", "int8"]
Interval = tuple[float, float]  # 95 %, low and high
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    # A NaN would reach the file as null and break whoever reads it back, so it is refused here.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputInfo(_Record):
    """One input of the model; a dimension that may vary is written as null."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class ModelInfo(_Record):
    """What came in. ``source`` is the file name or factory as given, without its folder.

    ``notes`` say what was changed before sites were sought, such as a weight norm that was removed.
    """

    name: str
    source: str
    sha256: Sha256 | None = None
    inputs: tuple[InputInfo, ...] = ()
    notes: tuple[str, ...] = ()


class DataInfo(_Record):
    """What it was judged on: samples and groups of each split, and how samples were prepared."""

    source: str
    samples: dict[str, Count]
    groups: dict[str, Count]
    preprocessing: str
    notes: tuple[str, ...] = ()


class MetricValue(_Record):
    """A task metric on the test split with its 95 % bootstrap interval over groups."""

    name: str
    value: float
    ci: Interval
    higher_is_better: bool = True
    unit: str = ""


class Change(_Record):
    """Paired difference to the original, oriented so that a positive figure is a loss, with its 95 % interval."""

    value: float
    ci: Interval


class Agreement(_Record):
    """How far a variant's outputs are from the original's on the same samples."""

    relative_l2: float = Field(ge=0)
    ci: Interval
    top1: float | None = Field(default=None, ge=0, le=1, description="share of equal top classes, for class scores")


class LatencyValue(_Record):
    """Milliseconds a call: median, 95th percentile, 95 % bootstrap interval of the median.

    ``drift`` is against everything timed in the same rounds: the ratios of a model that drifted hold for no one moment.
    """

    p50_ms: Milliseconds
    p95_ms: Milliseconds
    ci: Interval
    drift: float | None = Field(
        default=None, description="change between the halves of the rounds, as a share, where the spread supports one"
    )


class Original(_Record):
    """The model as it came in, measured in every runtime that works here."""

    metric: MetricValue | None
    latency: dict[Runtime, LatencyValue]
    params: Count
    macs: Count
    bytes: Count

    @property
    def fastest_runtime(self) -> Runtime:
        """The runtime with the lowest median: every speed-up is against this one."""
        return min(self.latency, key=lambda name: self.latency[name].p50_ms)


class SiteRecord(_Record):
    """One convolution and what the chosen variant does with it.

    ``rows`` and ``shifts`` (K rows of D coordinates, in pixels) only where ``action`` is "asl"; ``reason`` is a stable
    code, with words in ``message``.
    """

    name: str
    kind: str
    action: Literal["asl", "keep"]
    reason: str
    message: str = ""
    rows: Count | None = None
    shifts: tuple[tuple[float, ...], ...] = ()
    fit_error: float | None = Field(default=None, ge=0, description="relative L2 error of the layer's output after fit")
    latency_before_ms: Milliseconds | None = None
    latency_after_ms: Milliseconds | None = None


class Choice(_Record):
    """The candidate a plan takes for one site."""

    action: Literal["asl", "keep"]
    rows: Count | None = None


class PrunedGroup(_Record):
    """Channels that can only go together: where they are made, how many there were and how many are left.

    ``reason`` is a stable code of docs/pruning.md where none went, with words in ``message``.
    """

    layer: str
    channels_before: Count
    channels_after: Count
    reason: str = ""
    message: str = ""


class Pruning(_Record):
    """What was pruned between the fit and healing. Sizes are of the variant before and after the cut.

    ``loss`` is the distillation loss after the cut; ``refitted`` counts the layers that were then fitted again by least
    squares, none where ``loss_refitted`` was no better.
    """

    share: float = Field(gt=0, lt=1, description="of the channels of every group that allows it")
    importance: str
    groups: tuple[PrunedGroup, ...]
    params_before: Count
    params_after: Count
    macs_before: Count
    macs_after: Count
    refitted: Count
    loss: float
    loss_refitted: float

    @property
    def summary(self) -> str:
        """One sentence: how many channels went from how many groups, what stayed and why, what it is worth."""
        cut = [group for group in self.groups if not group.reason]
        before, after = (sum(getattr(group, f"channels_{when}") for group in cut) for when in ("before", "after"))
        reasons = Counter(group.reason for group in self.groups if group.reason)
        kept = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        return (
            f"{before - after} of {before} channels pruned in {len(cut)} of {len(self.groups)} groups"
            f"{f' (kept: {kept})' if kept else ''}, {self.params_before:,} to {self.params_after:,} parameters"
        )


class Quantisation(_Record):
    """How a variant came to 8 bits; errors are relative L2 distances to it in float, on validate samples.

    ``plain_error`` is what the quantiser's own way would lose, ``kept`` names the nodes that stay in float;
    ``untried`` says which recipes were left out, for want of time or since they failed, and why.
    """

    of: str
    recipe: str
    error: float = Field(ge=0)
    plain_error: float = Field(ge=0)
    kept: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One sentence."""
        missing = f", not tried: {len(self.untried)} recipes" if self.untried else ""
        return (
            f"8 bits of {self.of}: {self.recipe}; {self.error:.2%} of its outputs rounded off "
            f"(plain quantising: {self.plain_error:.2%}){missing}"
        )


class Variant(_Record):
    """A model built from a plan, healed and measured. Rows in ``plan`` are those that are left after pruning.

    ``speedup`` is, for each runtime, the original's median in ITS fastest runtime over this variant's median. Metric,
    loss and agreement are those of the form that runs fastest: in ``precision``.
    """

    id: str
    plan: dict[str, Choice]
    metric: MetricValue | None
    loss: Change | None = None
    agreement: Agreement
    latency: dict[Runtime, LatencyValue]
    speedup: dict[Runtime, float]
    speedup_ci: dict[Runtime, Interval] = Field(default={}, description="95 %, over rounds in which both were timed")
    params: Count
    macs: Count
    bytes: Count
    dominated: bool
    dominated_in_speed: bool | None = Field(
        default=None, description="of a dominated variant: whether one that dominates it is faster beyond the spread"
    )
    precision: Precision = "float32"
    predicted_speedup: float | None = Field(
        default=None, gt=0, description="of a stand-in with the same rows, timed before anything was fitted"
    )
    predicted_damage: float | None = Field(
        default=None, ge=0, description="relative squared error of the outputs before healing, summed over the sites"
    )
    note: str = ""
    pruning: Pruning | None = None
    quantisation: Quantisation | None = None

    @property
    def fastest_runtime(self) -> Runtime:
        """The runtime with the lowest median."""
        return min(self.latency, key=lambda name: self.latency[name].p50_ms)

    @property
    def best_speedup(self) -> float:
        """The speed-up in this variant's fastest runtime."""
        return self.speedup[self.fastest_runtime]

    @property
    def verdict(self) -> Verdict | None:
        """Against the original, each in its fastest runtime; None in reports that know no interval."""
        interval = self.speedup_ci.get(self.fastest_runtime)
        return None if interval is None else verdict(*interval)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What the spread of the samples does not support, and that it is dominated, in words."""
        drift = self.latency[self.fastest_runtime].drift
        told = []
        if self.verdict == "same":
            told.append(f"against the original {NO_DIFFERENCE}")
        if drift is not None:
            told.append(f"drifted by {drift:+.0%} while it was measured")
        if self.dominated:
            told.append(f"dominated{f', in speed with {NO_DIFFERENCE}' if self.dominated_in_speed is False else ''}")
        return tuple(told)

    @property
    def prediction_error(self) -> float | None:
        """How much longer the variant takes than the plan said, as a share; negative where it is faster."""
        return None if self.predicted_speedup is None else self.predicted_speedup / self.best_speedup - 1


class Artifact(_Record):
    """A file of the chosen variant; ``path`` is relative to the report's folder.

    ``checks`` gives the greatest difference by what it was run in after the reload, ``tolerance`` what is allowed.
    ``metric`` and ``agreement`` are of the test split, only for a file that is another function than the variant.
    """

    path: str
    sha256: Sha256
    kind: str
    bytes: Count | None = None
    max_abs_diff: float | None = Field(default=None, ge=0)
    tolerance: float | None = Field(default=None, ge=0)
    reloaded: bool
    checks: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    metric: MetricValue | None = None
    agreement: Agreement | None = None


class Report(_Record):
    """The whole of report.json."""

    schema_version: Literal[1] = 1
    created: str = Field(description="UTC time, ISO 8601")
    model: ModelInfo
    device: DeviceProfile
    latency_inputs: tuple[tuple[int, ...], ...] = Field(
        default=(), description="shapes of the inputs that latency was measured on, the batch first"
    )
    data: DataInfo | None = None
    seeds: dict[str, int]
    versions: dict[str, str]
    original: Original
    sites: tuple[SiteRecord, ...]
    variants: tuple[Variant, ...]
    chosen: str | None
    artifacts: tuple[Artifact, ...]
    variants_left_out: dict[str, str] = Field(
        default={}, description="reason by variant, of those allowed that could not be made"
    )
    artifacts_left_out: dict[str, str] = Field(default={}, description="reason by kind, of those asked for")
    runtimes_unavailable: dict[Runtime, str] = Field(default={}, description="reason by runtime")
    pinned: bool = Field(default=False, description="whether the timed process kept to as many cores as threads")
    costs_cached: Count = Field(default=0, description="sites whose latencies are from an earlier run on this device")
    measurement_notes: tuple[str, ...] = Field(default=(), description="what to know about the latencies, for people")
    timings: dict[str, float] = Field(description="seconds by stage")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [variant.id for variant in self.variants]
        if len(set(ids)) != len(ids):
            raise ValueError("two variants share an id")
        if self.chosen is not None and self.chosen not in ids:
            raise ValueError(f"chosen variant {self.chosen!r} is not among {ids}")
        return self

    @property
    def chosen_variant(self) -> Variant | None:
        """The variant that ``chosen`` names."""
        return next((variant for variant in self.variants if variant.id == self.chosen), None)

    def to_json(self) -> str:
        """The text of report.json."""
        return self.model_dump_json(indent=2) + "\n"


def read_report(path: str | Path) -> Report:
    """The report in the file ``path``.

    Raises:
        UsageError: ``report_missing``, or ``report_invalid`` for another version or a damaged file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("report_missing", f"Cannot read the report {Path(path).name}: {error}") from error
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError("report_invalid", f"{Path(path).name} is no valid report: {where}: {first['msg']}.") from error
