"""What a tenant's uploads, models and data sets count towards its storage."""

from __future__ import annotations

from sqlalchemy import Select

from aslconvert.service.datasets.previews import held_by
from aslconvert.service.uploads import repository
from aslconvert.service.uploads.shelf import DATASETS, MODELS
from aslconvert.workers.database import Transaction


def of_models(tenant: str) -> Select[tuple[str]]:
    """The hashes of its models."""
    return MODELS.held(tenant)


def of_datasets(tenant: str) -> Select[tuple[str]]:
    """The hashes of its data sets."""
    return DATASETS.held(tenant)


def of_previews(tenant: str) -> Select[tuple[str]]:
    """The hashes of previews of its data sets."""
    return held_by(tenant)


def on_their_way(at: Transaction, tenant: str) -> int:
    """Bytes of uploads under way, counted whole before they come."""
    return repository.reserved(at, tenant=tenant)


def under_way(at: Transaction, tenant: str) -> int:
    """How many uploads are received or vetted."""
    return repository.count_under_way(at, tenant=tenant)
