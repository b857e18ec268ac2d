"""Models as they are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from aslconvert.service.uploads.shelf import Kept


class ModelLinks(BaseModel):
    """Where to go on."""

    self_: str = Field(alias="self", serialization_alias="self")
    variants: str
    jobs: str


class Model(BaseModel):
    """A model; ``sha256`` is that of the file as uploaded, ``facts`` what reading it told."""

    id: str
    name: str
    kind: Literal["pt2", "onnx", "safetensors"]
    architecture: str | None
    bytes: int
    sha256: str
    created: datetime
    facts: dict[str, Any]
    links: ModelLinks


def shown(found: Kept) -> Model:
    """The model as JSON tells it."""
    own = f"/v1/models/{found.id}"
    return Model.model_validate(
        {
            "id": found.id,
            "name": found.name,
            "kind": found.kind,
            "architecture": found.architecture or None,
            "bytes": found.bytes,
            "sha256": found.sha256,
            "created": found.created,
            "facts": dict(found.facts),
            "links": {"self": own, "variants": f"{own}/variants", "jobs": f"/v1/jobs?model={found.id}"},
        }
    )
