"""Data sets of a tenant, found for jobs."""

from __future__ import annotations

from aslconvert.service.resources import Resource
from aslconvert.service.uploads.shelf import DATASETS
from aslconvert.workers.database import Transaction


def find(at: Transaction, identity: str, *, tenant: str) -> Resource:
    """The data set as a job reads it. Raises NotFound."""
    found = DATASETS.get(at, identity, tenant=tenant)
    return Resource(found.id, found.kind, found.sha256, found.bytes)
