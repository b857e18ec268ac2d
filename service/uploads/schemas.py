"""Uploads as they are shown."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from aslconvert.service.errors import ProblemDetails
from aslconvert.service.uploads.records import Upload, UploadState


class ResourceLink(BaseModel):
    """What became of an upload."""

    type: Literal["model", "dataset"]
    id: str
    url: str


class UploadView(BaseModel):
    """An upload: ``received`` of ``bytes`` are here; ``error`` says why it was refused."""

    id: str
    kind: Literal["model", "dataset"]
    filename: str
    bytes: int
    received: int
    state: UploadState
    error: ProblemDetails | None = None
    resource: ResourceLink | None = None
    expires: datetime


def shown(upload: Upload, *, received: int) -> UploadView:
    """The upload as JSON tells it."""
    kind: Literal["model", "dataset"] = "model" if upload.kind == "model" else "dataset"
    resource = None
    if upload.resource_id is not None:
        resource = ResourceLink(type=kind, id=upload.resource_id, url=f"/v1/{kind}s/{upload.resource_id}")
    return UploadView(
        id=upload.id,
        kind=kind,
        filename=upload.filename,
        bytes=upload.bytes,
        received=received,
        state=upload.state,
        error=None if upload.problem is None else ProblemDetails.model_validate(upload.problem),
        resource=resource,
        expires=upload.expires,
    )
