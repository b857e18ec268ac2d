"""What the server answers, as frozen values; fields that a newer server adds are dropped."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["user", "infrastructure", "internal"]
FINISHED = frozenset({"succeeded", "failed", "cancelled", "expired"})
"""States of a job that nothing follows but its removal."""

T = TypeVar("T")


class Record(BaseModel):
    """Base of all that comes from the server."""

    # A variant's `model_` names are ours, not pydantic's.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Problem(Record):
    """Problem details (RFC 9457) with this project's members."""

    code: str
    detail: str
    status: int = 500
    kind: Kind = "internal"
    hint: str = ""
    title: str = ""
    type: str = "about:blank"
    entry: str | None = None


class Listing(Record, Generic[T]):
    """A page of a list; ``next`` is the cursor of the page after it."""

    items: tuple[T, ...]
    next: str | None = None


class Resource(Record):
    """What became of an upload."""

    type: Literal["model", "dataset"]
    id: str


class Upload(Record):
    """A file on its way; ``bytes`` is its length, ``received`` how many of them are safe on the server."""

    id: str
    kind: str
    filename: str = ""
    bytes: int
    received: int
    state: Literal["receiving", "vetting", "done", "refused", "expired"]
    error: Problem | None = None
    resource: Resource | None = None
    expires: datetime | None = None


class Model(Record):
    """A model that was taken; ``facts`` are what was seen when it was rebuilt."""

    id: str
    name: str
    kind: str
    architecture: str | None = None
    bytes: int
    sha256: str
    created: datetime
    facts: dict[str, Any] = Field(default_factory=dict)


class Dataset(Record):
    """Data that was taken."""

    id: str
    name: str
    kind: str
    bytes: int
    sha256: str
    created: datetime
    facts: dict[str, Any] = Field(default_factory=dict)


class Progress(Record):
    """``done`` of ``total`` of a stage, in its own unit."""

    done: float
    total: float | None = None
    unit: str = ""


class Missed(Record):
    """Why what was found is not what was asked for."""

    code: str
    message: str
    hint: str = ""


class Job(Record):
    """A job as it stood when it was asked for; ``eta_s`` in seconds, ``position`` from 1 while it is queued."""

    id: str
    kind: str
    state: str
    stage: str | None = None
    progress: Progress | None = None
    eta_s: float | None = None
    position: int | None = None
    attempt: int = 0
    max_attempts: int = 0
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None
    expires: datetime | None = None
    model: str | None = None
    dataset: str | None = None
    device: str = "cpu"
    options: dict[str, Any] = Field(default_factory=dict)
    missed: Missed | None = None
    forecast: dict[str, Any] | None = None
    bench: dict[str, Any] | None = None
    error: Problem | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, however."""
        return self.state in FINISHED


class Event(Record):
    """Something that happened to a job; numbers grow, ``kind`` says what ``data`` holds."""

    number: int
    kind: str
    data: dict[str, Any] = Field(default_factory=dict)


class Artifact(Record):
    """A file of a variant; ``name`` is its path in the folder of the conversion."""

    id: str
    name: str
    format: str = ""
    bytes: int
    sha256: str


class Metric(Record):
    """A task metric on the test split with its 95 % interval."""

    name: str
    value: float
    ci: tuple[float, float] | None = None
    unit: str = ""


class Variant(Record):
    """A variant with its figures: latencies in milliseconds, intervals of 95 %."""

    id: str
    name: str = ""
    recommended: bool = False
    speedup: float | None = None
    speedup_ci: tuple[float, float] | None = None
    latency_ms: float | None = None
    metric: Metric | None = None
    loss: float | None = None
    loss_ci: tuple[float, float] | None = None
    artifacts: tuple[Artifact, ...] = ()


class Key(Record):
    """An API key; ``key`` itself is told once, when it is made."""

    id: str
    name: str
    tenant: str | None = None
    scopes: tuple[str, ...] = ()
    created: datetime | None = None
    expires: datetime | None = None
    revoked: datetime | None = None
    last_used: datetime | None = None
    key: str | None = Field(default=None, repr=False)


class Usage(Record):
    """What a tenant may use and has used, by the quotas' names."""

    tenant: str
    quotas: dict[str, float | None] = Field(default_factory=dict)
    used: dict[str, float | None] = Field(default_factory=dict)


class Link(Record):
    """An address that gives one artifact without a key until it expires."""

    url: str
    expires: datetime


class Seen(Record):
    """One input of one sample as a model would get it; ``image`` is a PNG as a data URL where it is a picture."""

    sample: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    image: str | None = Field(default=None, repr=False)
    label: str | None = None


class Broken(Record):
    """A file that cannot be read, and why."""

    file: str
    why: str


class Preview(Record):
    """What a model would see of a data set: ``samples`` of ``total``; ``splits`` says how all are used."""

    inputs: tuple[Seen, ...]
    samples: int
    total: int
    splits: dict[str, int] = Field(default_factory=dict)
    classes: dict[str, int] = Field(default_factory=dict)
    broken: tuple[Broken, ...] = ()
    preprocessing: str = ""
    notes: tuple[str, ...] = ()


class AuditEntry(Record):
    """A change, or a request that was turned away."""

    at: datetime
    key: str | None = None
    tenant: str | None = None
    action: str
    target: str | None = None
    outcome: str
    address: str = ""
