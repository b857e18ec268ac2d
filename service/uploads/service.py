"""Uploads: announced, received, ended; what becomes of the received ones is the vetter's business."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from aslconvert.service.errors import Conflict, ServiceError, TooLarge
from aslconvert.service.settings import Settings
from aslconvert.service.uploads import repository
from aslconvert.service.uploads.protocol import BadUpload, Checksum, Metadata
from aslconvert.service.uploads.receiving import Digests, TooMuchSent, finished, receive
from aslconvert.service.uploads.records import Upload, UploadState
from aslconvert.service.uploads.staging import Held, Staging
from aslconvert.workers.database import Database, Transaction
from aslconvert.workers.errors import InfrastructureError
from aslconvert.workers.jobs.ids import new_id

KEPT_DAYS: Final = 7
"""For which an upload that has ended can still be asked for."""


class Expired(ServiceError):
    """The upload was silent for too long, and its bytes are gone."""

    status = 410

    def __init__(self, upload_id: str) -> None:
        super().__init__("upload_expired", f"Upload {upload_id} has expired.", hint="Begin a new one.")


class WrongOffset(Conflict):
    """The client goes on at another place than the file ends."""

    def __init__(self, offset: int) -> None:
        super().__init__(
            "upload_offset",
            f"The upload has received {offset} bytes.",
            hint="Go on from there.",
            headers={"Upload-Offset": str(offset)},
        )


class Uploads:
    """What requests do to uploads. Methods raise NotFound for other tenants' uploads, Expired, and what stores raise.

    ``vet`` is called when one has been received whole.
    """

    def __init__(
        self, database: Database, settings: Settings, staging: Staging, digests: Digests, vet: Callable[[], None]
    ) -> None:
        self._database, self._settings = database, settings
        self.staging, self.digests, self.vet = staging, digests, vet

    def prepare(self, size: int) -> str:
        """The id of a new upload, whose file is there: of one that is not announced it is swept.

        Not within a transaction, since it waits for the disk, and others would wait with it. A row without its file
        would be lost, so the file is first.

        Raises:
            TooLarge: it is larger than the service takes.
        """
        most = self._settings.upload_bytes
        if size > most:
            raise TooLarge("upload_too_large", f"An upload has at most {most} bytes.")
        upload_id = new_id()
        self.staging.create(upload_id)
        return upload_id

    def announce(
        self, at: Transaction, upload_id: str, *, tenant: str, about: Metadata, size: int, admit: Callable[[], None]
    ) -> Upload:
        """A prepared upload, in the transaction of the answer that tells of it; ``admit`` raises for want of room."""
        repository.one_at_a_time(at, tenant)
        admit()
        return repository.add(
            at,
            upload_id,
            tenant=tenant,
            about=about,
            size=size,
            place=self.staging.place,
            lifetime=self._settings.upload_seconds,
        )

    def get(self, upload_id: str, *, tenant: str) -> Upload:
        """An upload as it stands; one that is over its time is told as expired."""
        found = self._database.read(lambda at: repository.get(at, upload_id, tenant=tenant))
        if found.state is UploadState.RECEIVING and found.expires <= datetime.now(UTC):
            return replace(found, state=UploadState.EXPIRED)
        return found

    def offset(self, upload: Upload) -> int:
        """Bytes received. Raises InfrastructureError ``upload_elsewhere`` where its file lies on another machine."""
        if upload.state in (UploadState.VETTING, UploadState.DONE):
            return upload.bytes
        if upload.state is UploadState.EXPIRED:
            return 0
        received = self.staging.received(upload.id)
        if received is None and upload.state is UploadState.RECEIVING and upload.place != self.staging.place:
            raise InfrastructureError("upload_elsewhere", "Another machine of this service has the upload.")
        return received or 0

    def settle(self, upload: Upload) -> Upload:
        """Go on with an upload that has all its bytes, though the process that received them died before it said so."""
        if upload.state is not UploadState.RECEIVING or self.staging.received(upload.id) != upload.bytes:
            return upload
        with self.staging.held(upload.id) as held:
            if held.offset == upload.bytes:
                self._received(upload)
        return self.get(upload.id, tenant=upload.tenant)

    async def receive(
        self, upload_id: str, body: AsyncIterator[bytes], *, tenant: str, offset: int, promised: int | None,
        checksum: Checksum | None, whole: str | None = None,
    ) -> tuple[Upload, int]:  # fmt: skip
        """Append the body at ``offset``; the upload, and how many bytes of it there are now.

        ``promised`` is how long the body says it is, ``whole`` which SHA-256 the file is to have in the end.

        Raises:
            BadUpload: another ``whole`` was told before.
            Locked: another request or the vetting has it.
            WrongOffset, TooMuchSent, ChecksumMismatch, Stalled.
            Conflict: ``upload_ended``.
        """
        with ExitStack() as stack:
            upload, held = await finished(partial(self._opened, stack, upload_id, tenant))
            if held.offset != offset:
                raise WrongOffset(held.offset)
            if promised is not None and offset + promised > upload.bytes:
                raise TooMuchSent(upload.bytes)
            if whole is not None and upload.wanted_sha256 != whole:
                # Before the bytes: after the last one a kill could come between.
                await finished(partial(self._wanted, upload, whole))
            digest = self.digests.take(upload_id, offset)
            # Of one request that fails nothing may be in the hash that is kept.
            before = None if digest is None or checksum is None else digest.copy()
            try:
                await receive(
                    body, held, most=upload.bytes, stall=self._settings.upload_stall_seconds,
                    digest=digest, checksum=checksum,
                )  # fmt: skip
            except BaseException:
                self.digests.leave(upload_id, held.offset, before if checksum is not None else digest)
                if offset < held.offset < upload.bytes:
                    # Bytes came and are kept: it was not silent. Whatever cannot be noted now changes nothing else.
                    with suppress(InfrastructureError):
                        await finished(partial(self._noted, upload, held))
                raise
            self.digests.leave(upload_id, held.offset, digest)
            await finished(partial(self._noted, upload, held))
        # Only now is the file free for the vetter.
        if held.offset == upload.bytes:
            self.vet()
        return self._extended(upload), held.offset

    def terminate(self, upload_id: str, *, tenant: str) -> None:
        """Forget an upload and its bytes; what was made of a finished one stays.

        Raises:
            Locked: it is being received or vetted.
        """
        upload = self.get(upload_id, tenant=tenant)
        if self.staging.received(upload_id) is None:
            self._database.write(lambda at: repository.remove(at, upload.id))
            return
        with self.staging.held(upload_id):
            self._database.write(lambda at: repository.remove(at, upload.id))
            self.staging.remove(upload_id)

    def sweep(self) -> None:
        """Expire silent uploads, go on with whole ones, forget old ones, remove files that belong to none."""
        known = self._database.read(lambda at: repository.known(at, place=self.staging.place))
        for upload in self._database.read(
            lambda at: repository.in_state(at, UploadState.RECEIVING, place=self.staging.place)
        ):
            with self._free(upload.id):
                self.settle(upload)
                if upload.expires <= datetime.now(UTC):
                    self._expire(upload)
        for upload_id in set(self.staging.ids()) - known:
            with self._free(upload_id), self.staging.held(upload_id) as held:
                # Held, and asked once more: a file is made a moment before its row can be seen.
                if held.idle_seconds > self._settings.upload_stall_seconds and not self._exists(upload_id):
                    self.staging.remove(upload_id)
        old = datetime.now(UTC) - timedelta(days=KEPT_DAYS)
        self._database.write(lambda at: repository.forget(at, before=old))

    def _opened(self, stack: ExitStack, upload_id: str, tenant: str) -> tuple[Upload, Held]:
        # Whose it is comes first: a lock must not tell of another tenant's upload.
        upload = self.get(upload_id, tenant=tenant)
        self._open_for_bytes(upload)
        held = stack.enter_context(self.staging.held(upload_id))
        upload = self.get(upload_id, tenant=tenant)
        self._open_for_bytes(upload)
        return upload, held

    def _open_for_bytes(self, upload: Upload) -> None:
        if upload.state is UploadState.EXPIRED:
            raise Expired(upload.id)
        if upload.state is not UploadState.RECEIVING:
            raise Conflict("upload_ended", f"Upload {upload.id} has all its bytes and is {upload.state}.")
        self.offset(upload)

    def _wanted(self, upload: Upload, whole: str) -> None:
        if upload.wanted_sha256 is not None:
            raise BadUpload("upload_digest", "Another sha256 was announced for this upload.", hint="Begin a new one.")
        self._database.write(lambda at: repository.change(at, upload.id, UploadState.RECEIVING, wanted_sha256=whole))

    def _extended(self, upload: Upload) -> Upload:
        return replace(upload, expires=datetime.now(UTC) + timedelta(seconds=self._settings.upload_seconds))

    def _noted(self, upload: Upload, held: Held) -> None:
        if held.offset == upload.bytes:
            self._received(upload)
            return
        later = self._extended(upload).expires
        self._database.write(lambda at: repository.change(at, upload.id, UploadState.RECEIVING, expires=later))

    def _received(self, upload: Upload) -> None:
        self._database.write(
            lambda at: repository.change(at, upload.id, UploadState.RECEIVING, state=UploadState.VETTING)
        )

    def _expire(self, upload: Upload) -> None:
        with self.staging.held(upload.id):
            now = self.get(upload.id, tenant=upload.tenant)
            if now.state is UploadState.EXPIRED:
                self._database.write(
                    lambda at: repository.end(at, upload.id, UploadState.RECEIVING, UploadState.EXPIRED)
                )
                self.staging.remove(upload.id)

    def _exists(self, upload_id: str) -> bool:
        return upload_id in self._database.read(lambda at: repository.known(at, place=self.staging.place))

    @contextmanager
    def _free(self, upload_id: str) -> Iterator[None]:
        """Passes over an upload that somebody is at work on, or that has just gone."""
        try:
            yield
        except ServiceError:
            return
