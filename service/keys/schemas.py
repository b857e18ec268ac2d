"""Keys, usage and audit as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from aslconvert.service.keys.usage import Quotas, Used
from aslconvert.service.security.callers import Scope


class KeyAsked(BaseModel):
    """A key to be. ``tenant`` other than one's own is for operators, and so is the scope ``operator``."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "ci", "scopes": ["read", "write"]}]}
    )

    name: Annotated[str, Field(min_length=1, max_length=200)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    expires_in_days: Annotated[int | None, Field(ge=1, le=3650)] = None
    tenant: Annotated[str | None, Field(min_length=1, max_length=200)] = None


class Key(BaseModel):
    """An API key without its secret. ``last_used`` is written down every few seconds."""

    id: str
    name: str
    tenant: str
    scopes: list[Scope]
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    last_used: datetime | None


class KeyMade(Key):
    """A new key; ``key`` is shown here only."""

    key: str


class Usage(BaseModel):
    """Limits of a tenant and what it uses of them."""

    tenant: str
    quotas: Quotas
    used: Used


class LimitsAsked(BaseModel):
    """Limits of a tenant; those that are left out, or null, are the deployment's."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"running_jobs": 100}]})

    storage_bytes: Annotated[int | None, Field(ge=0, lt=1 << 63)] = None
    running_jobs: Annotated[int | None, Field(ge=0, lt=1 << 31)] = None
    device_minutes: Annotated[int | None, Field(ge=0, lt=1 << 31)] = None
    open_uploads: Annotated[int | None, Field(ge=0, lt=1 << 31)] = None
    api_keys: Annotated[int | None, Field(ge=0, lt=1 << 31)] = None


class AuditEntry(BaseModel):
    """A change, or a request that was turned away."""

    at: datetime
    key: str | None
    tenant: str | None
    action: str
    target: str | None
    outcome: str
    address: str
