"""What an upload is, and the states that it goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row


class UploadState(StrEnum):
    """receiving -> vetting -> done or refused; what is not received in time becomes expired."""

    RECEIVING = "receiving"
    VETTING = "vetting"
    DONE = "done"
    REFUSED = "refused"
    EXPIRED = "expired"


ENDED = (UploadState.DONE, UploadState.REFUSED, UploadState.EXPIRED)


@dataclass(frozen=True)
class Upload:
    """An upload as it stood when it was read. ``bytes`` is how many there will be; ``metadata`` as tus sent it.

    ``facts`` is what vetting told before the file became a blob; ``problem`` why it was refused.
    """

    id: str
    tenant: str
    kind: str
    filename: str
    name: str | None
    architecture: str
    metadata: str
    bytes: int
    wanted_sha256: str | None
    place: str
    state: UploadState
    sha256: str | None
    facts: Mapping[str, Any] | None
    attempts: int
    problem: Mapping[str, Any] | None
    resource_id: str | None
    created: datetime
    expires: datetime
    finished: datetime | None


def upload_of(row: Row[Any]) -> Upload:
    """The record of a row of `tables.uploads`."""
    values = dict(row._mapping)
    return Upload(**{**values, "state": UploadState(values["state"])})
