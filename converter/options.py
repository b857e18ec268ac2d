"""The options of one conversion, and the readers of their written forms."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from aslconvert.converter.errors import UsageError

DEFAULT_BUDGET_SECONDS = 600.0
"""Healing and searching together; ten minutes on two cores is where the demo network stops gaining quickly."""

DEFAULT_SEED = 0
"""Every random choice of a run derives from the seed."""

DEVICES = ("auto", "cpu", "cuda")
"""Where the conversion runs and latency is measured."""

ARTIFACTS = ("portable", "fast", "int16", "trainable", "onnx", "int8", "weights", "code", "aoti")
DEFAULT_ARTIFACTS = ("portable", "fast", "int16", "trainable", "onnx", "weights", "code")
"""Without the two that take long or lose accuracy."""

PRUNE, INT8 = "prune", "int8"
ALLOWABLE = (PRUNE, INT8)
"""What else than shifts may go into variants, where it is allowed by name."""

Channels = Literal["rgb", "bgr", "gray"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Random training crops of ``size`` pixels whose corner lies on a multiple of ``multiple`` pixels."""

    size: int
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or self.multiple < 1 or self.size % self.multiple:
            raise UsageError(
                "bad_crop",
                f"A crop of {self.size} pixels on multiples of {self.multiple} does not work out.",
                hint="SIZE must be a positive multiple of MULTIPLE, such as 64/2.",
            )


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What the user may ask of a conversion.

    Raises:
        UsageError: a value is out of range, or two of them exclude each other.
    """

    max_drop: float | None = None
    """Greatest loss of the metric allowed, in the metric's own unit (dB for psnr, a fraction for top1)."""
    min_speedup: float | None = None
    """Least speed-up over the original in the original's fastest runtime."""
    max_params_mb: float | None = None
    """Most megabytes (10^6 bytes) of parameters that a variant may have."""
    max_macs: float | None = None
    """Most multiply-adds of one sample that a variant may need."""
    metric: str | None = None
    """Name of the task metric; None takes what the data allows, at least the agreement with the original."""
    budget_seconds: float = DEFAULT_BUDGET_SECONDS
    device: str = "auto"
    """Where variants are healed, of ``DEVICES``: "auto" is the GPU where there is one. Latency is that of the CPU."""
    keep: tuple[str, ...] = ()
    """Shell patterns over site names that are left as they are."""
    dry_run: bool = False
    resume: bool = False
    seed: int = DEFAULT_SEED
    threads: int | None = None
    """Threads of every measured runtime; None takes every core this process may use."""
    batch: int | None = None
    """Samples a call that latency is measured with; None takes the model's own fixed batch, else 1."""
    size: tuple[int, int] | None = None
    """Height and width to which images are resized; None leaves them."""
    scale: float | None = None
    """Positive factor on the raw values, before mean and std; None takes the loader's declared default."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Channels | None = None
    """Order of the image channels that the model sees; None takes the loader's declared default."""
    heal_crop: Crop | None = None
    """Heal on crops instead of whole samples; the multiple keeps a mosaic's phase."""

    artifacts: tuple[str, ...] = DEFAULT_ARTIFACTS
    """Kinds of artifact to write, of ``ARTIFACTS``."""
    heal_steps: int | None = None
    """Steps of healing for each variant, instead of time: what the clock does not decide can be repeated."""
    heal_batch: int | None = None
    """Samples of one step of healing, over all processes; None takes the model's own fixed batch, else the default."""
    accumulate: int = 1
    """Pieces in which each process computes its share of a step, for less memory."""
    processes: int = field(default=1, repr=False)
    """Healing in so many processes, on GPUs one each. Not among what a run is known by: it makes no other step."""
    task_loss: float = 0.0
    """Weight in 0 .. 1 of the data's own labels or targets in what healing lowers, beside the original's answers."""
    plan: Path | None = None
    """A ``plan.json`` of an earlier run: its plans, steps and choice instead of measuring."""
    dump_passes: Path | None = None
    """Where every pass writes the graph before and after it."""
    int16: bool = True
    """Run variants in 16-bit integers too, where the processor has them; accuracy is then measured in that form."""
    cache: bool = True
    """Take latencies of sites from earlier runs on this device, where a look at a few of them finds them unchanged."""
    allow: tuple[str, ...] = ()
    """Further kinds of variants, of ``ALLOWABLE``: "prune" adds pruned ones, the original merely pruned among them;
    "int8" the original and every variant in 8 bits."""

    @property
    def written(self) -> tuple[str, ...]:
        """The kinds of artifact that are written: without 16 bits there is no file in them either."""
        return tuple(kind for kind in self.artifacts if self.int16 or kind != "int16")

    def __post_init__(self) -> None:
        if self.max_drop is not None and self.min_speedup is not None:
            raise UsageError(
                "two_targets", "--max-drop and --min-speedup exclude each other.", hint="Give one of them."
            )
        _require(self.max_drop is None or _at_least(self.max_drop, 0.0), "max_drop", "must be 0 or more")
        _require(self.min_speedup is None or _above(self.min_speedup, 0.0), "min_speedup", "must be above 0")
        _require(self.max_params_mb is None or _above(self.max_params_mb, 0.0), "max_params_mb", "must be above 0")
        _require(self.max_macs is None or _above(self.max_macs, 0.0), "max_macs", "must be above 0")
        _require(_above(self.budget_seconds, 0.0), "budget", "must be above 0")
        _require(self.device in DEVICES, "device", f"must be one of {', '.join(DEVICES)}")
        _require(self.threads is None or self.threads >= 1, "threads", "must be 1 or more")
        _require(
            bool(self.artifacts) and set(self.artifacts) <= set(ARTIFACTS),
            "artifacts",
            f"must be of {', '.join(ARTIFACTS)}",
        )
        _require(bool(self.written), "artifacts", "must name more than int16, which --no-int16 leaves out")
        _require(set(self.allow) <= set(ALLOWABLE), "allow", f"must be of {', '.join(ALLOWABLE)}")
        _require(self.heal_steps is None or self.heal_steps >= 1, "heal_steps", "must be 1 or more")
        _require(0 <= self.task_loss <= 1, "task_loss", "must be a weight from 0 to 1")
        _require(self.heal_batch is None or self.heal_batch >= 1, "heal_batch", "must be 1 or more")
        _require(self.accumulate >= 1, "accumulate", "must be 1 or more")
        _require(self.processes >= 1, "processes", "must be 1 or more")
        _require(self.batch is None or self.batch >= 1, "batch", "must be 1 or more")
        _require(0 <= self.seed < 2**63, "seed", "must be between 0 and 2^63 - 1")
        _require(self.size is None or min(self.size) >= 1, "size", "must be 1 or more in both directions")
        _require(self.scale is None or _above(self.scale, 0.0), "scale", "must be above 0")
        _require(self.channels is None or self.channels in get_args(Channels), "channels", "must be rgb, bgr or gray")
        _require(self.std is None or all(_above(value, 0.0) for value in self.std), "std", "must be above 0")
        _require(self.mean is None or all(map(math.isfinite, self.mean)), "mean", "must be finite")


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10m``, ``1h30m`` or ``1.5h``.

    Raises:
        UsageError: the text is not such a duration, or it is zero.
    """
    compact = text.strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh]?)", compact)
    bare = sum(unit == "" for _, unit in parts)
    if not parts or "".join(value + unit for value, unit in parts) != compact or (bare and len(parts) > 1):
        raise UsageError("bad_duration", f"'{text}' is not a duration.", hint="Write 90s, 10m or 1h30m.")
    seconds = sum(float(value) * _UNITS[unit] for value, unit in parts)
    if not _above(seconds, 0.0):
        raise UsageError("bad_duration", f"'{text}' leaves no time at all.", hint="Write 90s, 10m or 1h30m.")
    return seconds


def parse_crop(text: str) -> Crop:
    """The crop of ``64`` or ``64/2`` (size, and the multiple its corners lie on).

    Raises:
        UsageError: the text is not such a crop, or the size is not a multiple of the multiple.
    """
    match = re.fullmatch(r"(\d+)(?:/(\d+))?", text.strip())
    if match is None:
        raise UsageError("bad_crop", f"'{text}' is not a crop.", hint="Write SIZE or SIZE/MULTIPLE, such as 64/2.")
    return Crop(size=int(match[1]), multiple=int(match[2] or 1))


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of ``224`` or ``240x320``.

    Raises:
        UsageError: the text is not such a size.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if match is None:
        raise UsageError("bad_size", f"'{text}' is not a size.", hint="Write 224, or HEIGHTxWIDTH such as 240x320.")
    return int(match[1]), int(match[2] or match[1])


def parse_number(text: str) -> float:
    """The number of ``0.5`` or of a ratio such as ``1/255``.

    Raises:
        UsageError: the text is not a finite number.
    """
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise UsageError("bad_number", f"'{text}' is not a number.", hint="Write 0.5 or 1/255.")
    return value


def parse_amount(text: str) -> float:
    """The number of ``250000``, ``300M`` or ``1.2G`` (k, M, G and T are powers of a thousand).

    Raises:
        UsageError: the text is not such a number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmgt]?)", text.strip().lower())
    if match is None:
        raise UsageError("bad_amount", f"'{text}' is no amount.", hint="Write 250000, 300M or 1.2G.")
    return float(match[1]) * 1000.0 ** " kmgt".index(match[2] or " ")


def parse_numbers(text: str) -> tuple[float, ...]:
    """The numbers of ``0.485,0.456,0.406``, one for each channel or one for all.

    Raises:
        UsageError: one of them is not a finite number.
    """
    return tuple(parse_number(part.strip()) for part in text.split(","))


def parse_artifacts(text: str) -> tuple[str, ...]:
    """The kinds of ``portable,onnx``; ``default`` and ``all`` stand for several, as in ``default,int8``.

    Raises:
        UsageError: one of them is not a kind of artifact, or there is none.
    """
    groups = {"default": DEFAULT_ARTIFACTS, "all": ARTIFACTS}
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in groups and name not in ARTIFACTS]
    if unknown or not names:
        told = f"No kind of artifact is called {', '.join(unknown)}." if unknown else "No kind of artifact is named."
        raise UsageError("bad_artifacts", told, hint=f"Known: default, all, {', '.join(ARTIFACTS)}.")
    wanted = {kind for name in names for kind in groups.get(name, (name,))}
    return tuple(kind for kind in ARTIFACTS if kind in wanted)


def parse_allow(text: str) -> tuple[str, ...]:
    """The names of ``int8,prune``, joined by commas.

    Raises:
        UsageError: one of them is not known, or there is none.
    """
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in ALLOWABLE]
    if unknown or not names:
        told = f"Nothing that could be allowed is called {', '.join(unknown)}." if unknown else "Nothing is named."
        raise UsageError("bad_allow", told, hint=f"Known: {', '.join(ALLOWABLE)}.")
    return tuple(name for name in ALLOWABLE if name in names)


def parse_channels(text: str) -> Channels:
    """One of ``rgb``, ``bgr`` and ``gray``.

    Raises:
        UsageError: the text is none of them.
    """
    if text not in get_args(Channels):
        raise UsageError("bad_channels", f"'{text}' is no order of channels.", hint="Write rgb, bgr or gray.")
    return cast(Channels, text)


def _above(value: float, bound: float) -> bool:
    return math.isfinite(value) and value > bound


def _at_least(value: float, bound: float) -> bool:
    return math.isfinite(value) and value >= bound


def _require(holds: bool, option: str, wish: str) -> None:
    if not holds:
        raise UsageError("bad_option", f"The option {option} {wish}.")
