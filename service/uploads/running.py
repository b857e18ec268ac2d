"""What runs for uploads beside the requests, and how handlers find it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends

from aslconvert.service.context import Context, Ctx
from aslconvert.service.datasets.previews import Previews
from aslconvert.service.uploads.desk import Desk
from aslconvert.service.uploads.receiving import Digests
from aslconvert.service.uploads.service import Uploads
from aslconvert.service.uploads.staging import Staging
from aslconvert.service.uploads.vetter import Vetter


@contextmanager
def running(context: Context) -> Iterator[None]:
    """Vet uploads and make previews while this is entered; what an earlier process left is gone on with."""
    staging = Staging(context.settings.folder / "uploads")
    digests, stopping = Digests(), threading.Event()
    vetter = Vetter(context, staging, digests, stopping.is_set)
    previews = Previews(context, staging.folder / "desk", stopping.is_set)
    uploads = Uploads(context.database, context.settings, staging, digests, lambda: desk.wake())

    def sweep() -> None:
        for one in (uploads.sweep, vetter.sweep, previews.sweep):
            one()

    desk = Desk([vetter, previews], seats=context.settings.sandboxes, sweep=sweep, stopping=stopping)
    previews.wake = desk.wake
    context.parts.update({Uploads: uploads, Previews: previews})
    with desk:
        yield


def _uploads(context: Ctx) -> Uploads:
    found: Uploads = context.parts[Uploads]
    return found


def _previews(context: Ctx) -> Previews:
    found: Previews = context.parts[Previews]
    return found


TheUploads = Annotated[Uploads, Depends(_uploads)]
"""A handler's parameter."""

ThePreviews = Annotated[Previews, Depends(_previews)]
"""A handler's parameter."""
