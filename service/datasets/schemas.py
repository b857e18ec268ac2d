"""Data sets and their previews as they are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aslconvert.service.uploads.shelf import Kept


class DatasetLinks(BaseModel):
    """Where to go on."""

    self_: str = Field(alias="self", serialization_alias="self")
    preview: str


class Dataset(BaseModel):
    """A data set; ``sha256`` is that of the file as uploaded, ``facts`` what reading it told."""

    id: str
    name: str
    kind: Literal["images", "npz", "safetensors"]
    bytes: int
    sha256: str
    created: datetime
    facts: dict[str, Any]
    links: DatasetLinks


Word = Annotated[str, Field(max_length=2000)]


class Seen(BaseModel):
    """One input of one sample as the model would get it; ``image`` is a PNG as a data URL where it is a picture."""

    model_config = ConfigDict(extra="forbid")

    sample: int
    name: Word
    dtype: Word
    shape: Annotated[list[int], Field(max_length=16)]
    minimum: float | None
    maximum: float | None
    mean: float | None
    image: Annotated[str, Field(max_length=1 << 20, pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+={0,2}$")] | None
    label: Word | None


class Broken(BaseModel):
    """A file that cannot be read, and why."""

    model_config = ConfigDict(extra="forbid")

    file: Word
    why: Word


class Preview(BaseModel):
    """What a model would see of a data set: ``samples`` of ``total`` are shown, ``splits`` says how all are used."""

    model_config = ConfigDict(extra="forbid")

    inputs: Annotated[list[Seen], Field(max_length=1000)]
    samples: int
    total: int
    splits: Annotated[dict[str, int], Field(max_length=8)]
    classes: Annotated[dict[Word, int], Field(max_length=1000)]
    broken: Annotated[list[Broken], Field(max_length=100)]
    preprocessing: Word
    notes: Annotated[list[Word], Field(max_length=100)]


class Making(BaseModel):
    """The preview is being made: ask again."""

    state: Literal["making"] = "making"


def shown(found: Kept) -> Dataset:
    """The data set as JSON tells it."""
    own = f"/v1/datasets/{found.id}"
    return Dataset.model_validate(
        {
            "id": found.id,
            "name": found.name,
            "kind": found.kind,
            "bytes": found.bytes,
            "sha256": found.sha256,
            "created": found.created,
            "facts": dict(found.facts),
            "links": {"self": own, "preview": f"{own}/preview"},
        }
    )
