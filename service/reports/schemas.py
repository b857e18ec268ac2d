"""Variants, artifacts and links as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from aslconvert.service.paging import Listed

Interval = tuple[float, float]
ArtifactId = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[0-9A-Za-z._-]+$")]


class Artifact(BaseModel):
    """A file of a result; ``name`` is its path in the folder of the conversion, ``format`` what it is."""

    id: str
    name: str
    format: str
    bytes: int
    sha256: str
    url: str


class Metric(BaseModel):
    """A task metric on the test split with its 95 % interval."""

    name: str
    value: float
    ci: Interval | None = None
    unit: str = ""


class Variant(BaseModel):
    """A variant: latency in milliseconds and speed-up over the original, each in its fastest runtime.

    ``loss`` is of the metric, positive where the variant is worse; intervals are of 95 %. ``artifacts`` has files where
    the variant is the one that was chosen.
    """

    id: str
    job: str
    name: str
    recommended: bool
    speedup: float | None
    speedup_ci: Interval | None
    latency_ms: float | None
    metric: Metric | None
    loss: float | None
    loss_ci: Interval | None
    artifacts: list[Artifact]


class VariantsOfModel(Listed[Variant]):
    """A page of variants; ``damaged`` names the jobs of the page whose reports cannot be read."""

    damaged: list[str]


class LinkAsked(BaseModel):
    """For how many seconds a link holds."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"seconds": 600}]})

    seconds: Annotated[int, Field(ge=1, le=3600)]


class Link(BaseModel):
    """An address that gives one artifact without a key until it expires."""

    url: str
    expires: datetime
