"""The declared preparation of samples: stated by the user or a data.toml, never guessed in silence."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from aslconvert.converter.errors import UsageError

Channels = Literal["rgb", "bgr", "gray"]
DEFAULT_IMAGE_SCALE = 1 / 255


@dataclass(frozen=True)
class Preprocess:
    """(pixel * scale - mean) / std after resizing to ``size`` = (height, width) and ordering ``channels``.

    None means undeclared: images then keep their size, are scaled by 1/255 and read as RGB; arrays are used as stored.
    Resizing is antialiased, scales the image until it covers ``size`` and crops its centre.
    """

    size: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: Channels | None = None

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise UsageError("preprocess", f"size must be height and width of at least 1, got {self.size}.")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise UsageError("preprocess", f"scale must be a positive number, got {self.scale}.")
        if self.std is not None and not all(0 < s < float("inf") for s in self.std):
            raise UsageError("preprocess", f"std must be positive, got {self.std}.")
        if self.channels not in (None, "rgb", "bgr", "gray"):
            raise UsageError("preprocess", f"channels must be rgb, bgr or gray, got {self.channels!r}.")

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """What the ``data.toml`` at ``path`` declares; keys as the fields of this class.

        Raises:
            UsageError: ``preprocess``, for an unreadable file, an unknown key or a value of the wrong kind.
        """
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError("preprocess", f"Cannot read {path.name}: {error}") from error
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(table) - set(known)):
            raise UsageError("preprocess", f"{path.name} holds unknown keys {unknown}; known are {known}.")
        try:
            return cls(
                size=_pair(table.get("size")),
                scale=None if table.get("scale") is None else float(table["scale"]),
                mean=_floats(table.get("mean")),
                std=_floats(table.get("std")),
                channels=table.get("channels"),
            )
        except (TypeError, ValueError) as error:
            raise UsageError("preprocess", f"{path.name} holds a value of the wrong kind: {error}") from error

    def over(self, base: Preprocess) -> Preprocess:
        """This declaration, with what it leaves open taken from ``base``."""
        stated = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return replace(base, **stated)

    def for_images(self) -> Preprocess:
        """The declaration with the image defaults filled in."""
        return self.over(Preprocess(scale=DEFAULT_IMAGE_SCALE, channels="rgb"))

    @property
    def changes_values(self) -> bool:
        """Whether ``values`` does anything."""
        return not (self.scale is None and self.mean is None and self.std is None)

    def values(self, batch: Tensor) -> Tensor:
        """(batch * scale - mean) / std as float32; mean and std run along axis 1 of [N, C, ...].

        Raises:
            UsageError: ``data_shape``, when mean or std have neither one entry nor one a channel.
        """
        out = batch.to(torch.float32)
        if self.scale is not None:
            out = out * self.scale
        if self.mean is not None:
            out = out - _per_channel("mean", self.mean, out)
        if self.std is not None:
            out = out / _per_channel("std", self.std, out)
        return out

    def describe(self) -> str:
        """The declaration in words, for the report and for ``inspect``."""
        parts = [] if self.size is None else [f"resized to cover {self.size[0]}x{self.size[1]}, centre cropped"]
        if self.channels is not None:
            parts.append(f"channels {self.channels}")
        if self.scale is not None:
            parts.append("scaled by 1/255" if self.scale == DEFAULT_IMAGE_SCALE else f"scaled by {self.scale:g}")
        parts += [] if self.mean is None else [f"minus mean {list(self.mean)}"]
        parts += [] if self.std is None else [f"over std {list(self.std)}"]
        return ", ".join(parts) or "used as stored"


def _per_channel(name: str, values: tuple[float, ...], batch: Tensor) -> Tensor:
    channels = batch.shape[1] if batch.dim() > 1 else 1
    if len(values) not in (1, channels):
        raise UsageError("data_shape", f"{name} has {len(values)} entries, the samples have {channels} channels.")
    return torch.tensor(values, dtype=torch.float32).reshape(-1, *[1] * max(0, batch.dim() - 2))


def _pair(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def _floats(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    return (float(value),) if isinstance(value, int | float) else tuple(float(v) for v in value)
