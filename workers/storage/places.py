"""Opens the blob store that a setting names: a folder, or a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.storage.base import BlobStore
from aslconvert.workers.storage.local import LocalBlobs

_SCHEMES = ("s3://",)


def open_blobs(place: str, *, staging_folder: Path, options: Mapping[str, Any] | None = None) -> BlobStore:
    """The store at a folder's path or at ``s3://bucket/prefix``.

    Args:
        place: where blobs are.
        staging_folder: where a bucket's uploads are hashed before they are sent.
        options: a bucket's endpoint, region and keys as obstore names them; without them the usual AWS variables count.

    Raises:
        UserError: ``bad_blob_place``.
        InfrastructureError: ``obstore_missing``.
    """
    if "://" not in place:
        return LocalBlobs(Path(place))
    if not place.startswith(_SCHEMES):
        raise UserError("bad_blob_place", f"Blobs are kept in a folder or below {' or '.join(_SCHEMES)}.")
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        from aslconvert.workers.storage.remote import ObjectBlobs
    except ModuleNotFoundError as error:
        hint = "Install aslconvert[s3]."
        raise InfrastructureError("obstore_missing", "Buckets need obstore.", hint=hint) from error
    # The library's own patience is three minutes, within which a heartbeat would be missed.
    retries: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}
    try:
        return ObjectBlobs(S3Store.from_url(place, retry_config=retries, **(options or {})), staging_folder)
    except (BaseError, ValueError, TypeError) as error:
        raise UserError("bad_blob_place", f"The bucket's settings do not fit: {type(error).__name__}.") from error
