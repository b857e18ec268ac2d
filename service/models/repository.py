"""Models of a tenant: found for jobs, and taken away with what uses them."""

from __future__ import annotations

from aslconvert.service.resources import Resource
from aslconvert.service.uploads.shelf import MODELS
from aslconvert.workers.database import Transaction


def find(at: Transaction, identity: str, *, tenant: str) -> Resource:
    """The model as a job reads it. Raises NotFound."""
    found = MODELS.get(at, identity, tenant=tenant)
    return Resource(found.id, found.kind, found.sha256, found.bytes, found.architecture or None)
