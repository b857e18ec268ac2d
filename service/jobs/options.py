"""What may be asked of a conversion and of a bench, by the names of the engine's own options; a test compares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, lt=1 << 31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
ArtifactKind = Literal["portable", "fast", "int16", "trainable", "onnx", "int8", "weights", "code", "aoti"]


class Crop(BaseModel):
    """Random training crops of ``size`` pixels whose corner lies on a multiple of ``multiple`` pixels."""

    model_config = ConfigDict(extra="forbid")

    size: Count
    multiple: Count = 1


class Options(BaseModel):
    """What is left out has the engine's default; docs/cli.md explains each under its name.

    ``metric`` is the name of one of the engine's: a function of one's own is for the command line.
    """

    model_config = ConfigDict(extra="forbid")

    max_drop: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    min_speedup: Positive | None = None
    max_params_mb: Positive | None = None
    max_macs: Positive | None = None
    metric: Annotated[str | None, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")] = None
    budget_seconds: Annotated[float, Field(gt=0, le=86400)] = 600.0
    keep: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=100)] = []
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    threads: Annotated[int | None, Field(ge=1, le=1024)] = None
    batch: Count | None = None
    size: Annotated[list[Count] | None, Field(min_length=2, max_length=2)] = None
    scale: Positive | None = None
    mean: Annotated[list[Finite] | None, Field(min_length=1, max_length=64)] = None
    std: Annotated[list[Positive] | None, Field(min_length=1, max_length=64)] = None
    channels: Literal["rgb", "bgr", "gray"] | None = None
    heal_crop: Crop | None = None
    artifacts: Annotated[list[ArtifactKind], Field(min_length=1, max_length=9)] = [
        "portable", "fast", "int16", "trainable", "onnx", "weights", "code",
    ]  # fmt: skip
    heal_steps: Count | None = None
    heal_batch: Count | None = None
    accumulate: Count = 1
    task_loss: Annotated[float, Field(ge=0, le=1)] = 0.0
    int16: bool = True
    allow: Annotated[list[Literal["prune", "int8"]], Field(max_length=2)] = []

    @model_validator(mode="after")
    def _agree(self) -> Options:
        if self.max_drop is not None and self.min_speedup is not None:
            raise ValueError("max_drop and min_speedup exclude each other")
        if self.heal_crop is not None and self.heal_crop.size % self.heal_crop.multiple:
            raise ValueError("the size of heal_crop is a multiple of its multiple")
        return self


class BenchOptions(BaseModel):
    """Of a bench: ``shape`` of the model's one input, ``rounds`` of samples; the engine chooses what is left out."""

    model_config = ConfigDict(extra="forbid")

    runtimes: Annotated[
        list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]] | None, Field(min_length=1, max_length=16)
    ] = None
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1 << 16)]] | None, Field(min_length=1, max_length=8)] = None
    threads: Annotated[int | None, Field(ge=1, le=1024)] = None
    rounds: Annotated[int | None, Field(ge=3, le=1000)] = None
    seed: Annotated[int | None, Field(ge=0, lt=1 << 63)] = None
