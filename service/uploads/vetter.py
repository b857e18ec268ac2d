"""What becomes of a received upload: hashed, vetted in a sandbox, made a blob, put on its shelf; or refused.

Every step can be cut off and done again: the row says `vetting` until the last one, hash and facts are stored before
the file becomes a blob, and the file's lock keeps processes apart and dies with them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from aslconvert.service.context import Context
from aslconvert.service.errors import NotFound, details_of
from aslconvert.service.uploads import repository
from aslconvert.service.uploads.desk import by_turns
from aslconvert.service.uploads.receiving import Digests
from aslconvert.service.uploads.records import Upload, UploadState
from aslconvert.service.uploads.shelf import SHELVES, Kept
from aslconvert.service.uploads.staging import Locked, Staging, is_id
from aslconvert.workers.database import Transaction
from aslconvert.workers.errands import Errand, Interrupted, run_errand
from aslconvert.workers.errors import BlobNotFound, InfrastructureError, InternalError, UserError, WorkersError
from aslconvert.workers.intake.codes import CODES
from aslconvert.workers.intake.refusal import Refused
from aslconvert.workers.jobs.records import checked_json
from aslconvert.workers.plain import remove_tree
from aslconvert.workers.sandbox.limits import Limits
from aslconvert.workers.storage import Blob
from aslconvert.workers.storage.staging import hash_file

ENGINE: Final = "aslconvert.workers.vetting:run"
MOST_ATTEMPTS: Final = 5
"""Begun vettings, those included that the service did not outlive."""

MOST_FACTS: Final = 64 << 10
PAUSE_SECONDS: Final = 5.0
"""Before what failed for want of something is tried again; twice as long each time."""

_SAFE_SECONDS: Final = 86400.0
"""For which a blob is kept though nobody holds it yet: a restart between two steps takes no longer."""


class Vetter:
    """Sees uploads through, one a call; safe for threads."""

    def __init__(self, context: Context, staging: Staging, digests: Digests, stopping: Callable[[], bool]) -> None:
        self._context, self._staging, self._digests, self._stopping = context, staging, digests, stopping
        self._pauses: dict[str, float] = {}
        self._lock = threading.Lock()

    def waiting(self) -> list[str]:
        """Uploads that are to be vetted and not in a pause, one of each tenant at a time."""

        def find(at: Transaction) -> Sequence[Upload]:
            return repository.in_state(at, UploadState.VETTING, place=self._staging.place)

        found = self._context.database.read(find)
        now = time.monotonic()
        with self._lock:
            return by_turns((one.tenant, one.id) for one in found if self._pauses.get(one.id, 0.0) <= now)

    def see_through(self, upload_id: str) -> None:
        """Bring an upload to its end, if nobody else does and it is still to be done."""
        log = structlog.get_logger().bind(upload=upload_id)
        try:
            try:
                with self._staging.held(upload_id):
                    if (upload := self._still(upload_id)) is not None:
                        self._judge(upload)
            except NotFound:
                if (upload := self._still(upload_id)) is not None:
                    self._recover(upload)
        except Interrupted:
            return
        except Locked:
            # Another process has it: not at once again.
            self._pause(upload_id, 1)
        except InfrastructureError as error:
            # The store itself failed, so nothing can be said about it now.
            log.warning("not vetted", code=error.code)
            self._pause(upload_id, 1)

    def sweep(self) -> None:
        """Remove what killed processes left of vettings that are over."""
        for folder in (self._staging.folder / "desk").glob("*"):
            if is_id(folder.name) and self._still(folder.name) is None:
                remove_tree(folder)

    def _judge(self, upload: Upload) -> None:
        """Everything that is done while the file is held."""
        try:
            # Before anything is done: a try that takes the whole service down with it counts too.
            upload = self._counted(upload)
            digest = self._digest(upload)
            found = self._found(upload, digest)
            if found is None:
                kind, facts = self._vetted(upload)
                told = {"kind": kind, "facts": facts}
                self._change(upload, sha256=digest, facts=told)
                self._promote(upload, digest)
                found = self._shelved(upload, digest, told)
            self._done(upload, found)
            self._staging.remove(upload.id)
        except (Refused, UserError) as error:
            self._refuse(upload, error)
        except InternalError as error:
            structlog.get_logger().error("vetting failed", upload=upload.id, code=error.code)
            self._refuse(upload, error)
        except InfrastructureError as error:
            self._again(upload, error)
        except Interrupted:
            # The service stops in good order, which is no fault of the upload.
            self._change(upload, attempts=max(0, upload.attempts - 1))
            raise

    def _counted(self, upload: Upload) -> Upload:
        """The upload with one try more. Raises InfrastructureError where there were enough."""
        if upload.attempts >= MOST_ATTEMPTS:
            raise InfrastructureError("vetting_gave_up", "Vetting was cut off again and again.")
        self._change(upload, attempts=upload.attempts + 1)
        return replace(upload, attempts=upload.attempts + 1)

    def _digest(self, upload: Upload) -> str:
        known = self._digests.take(upload.id, upload.bytes)
        if known is not None:
            digest = known.hexdigest()
            # Once more in memory, for the next try if this one is cut off.
            self._digests.leave(upload.id, upload.bytes, known)
        else:
            digest = hash_file(self._staging.path(upload.id))[0].hash
        if upload.wanted_sha256 not in (None, digest):
            raise UserError(
                "upload_digest", "The bytes do not have the sha256 that was announced.", hint="Upload the file again."
            )
        return digest

    def _found(self, upload: Upload, digest: str) -> Kept | None:
        shelf = SHELVES[upload.kind]
        return self._context.database.read(
            lambda at: shelf.find(at, tenant=upload.tenant, sha256=digest, architecture=upload.architecture)
        )

    def _vetted(self, upload: Upload) -> tuple[str, dict[str, Any]]:
        """Kind and facts. Raises Refused."""
        settings = self._context.settings
        path = self._staging.path(upload.id)
        errand = Errand(
            engine=ENGINE,
            kind=upload.kind,
            payload={"path": str(path.resolve())},
            readable=(path.resolve(),),
            limits=Limits(memory=settings.vetting_memory, cpu_seconds=int(settings.vetting_seconds) + 1),
            seconds=settings.vetting_seconds,
            strict=settings.strict,
        )
        result = run_errand(errand, folder=self._staging.folder / "desk" / upload.id, stopping=self._stopping)
        if (refused := result.get("refused")) is not None:
            raise _refused(refused)
        kind, facts = str(result.get("kind")), checked_json(dict(result.get("facts") or {}), MOST_FACTS)
        if kind == "safetensors" and upload.kind == "model" and not upload.architecture:
            raise UserError(
                "architecture_missing",
                "A file of safetensors holds weights alone.",
                hint="Name the network in the upload's metadata: architecture.",
            )
        if kind != "safetensors" and upload.architecture:
            raise UserError(
                "architecture_unneeded", f"A {kind} file says itself what the network is.", hint="Leave it out."
            )
        return kind, facts

    def _promote(self, upload: Upload, digest: str) -> None:
        """Raises InfrastructureError ``upload_damaged`` where the disk has other bytes than came in."""

        def admit(blob: Blob) -> None:
            if blob.hash != digest:
                raise InfrastructureError("upload_damaged", "The disk has changed the bytes.")

        safe = datetime.now(UTC) + timedelta(seconds=_SAFE_SECONDS)
        self._context.blobs.adopt(self._staging.path(upload.id), expires=safe, admit=admit)

    def _shelved(self, upload: Upload, digest: str, told: Mapping[str, Any]) -> Kept:
        shelf = SHELVES[upload.kind]
        return self._context.database.write(
            lambda at: shelf.add(
                at,
                tenant=upload.tenant,
                name=upload.name or upload.filename,
                kind=str(told["kind"]),
                size=upload.bytes,
                sha256=digest,
                facts=told["facts"],
                architecture=upload.architecture,
            )
        )

    def _recover(self, upload: Upload) -> None:
        """The file is gone: it became a blob just before a process died, or it was lost."""
        try:
            if upload.sha256 is not None and upload.facts is not None:
                found = self._found(upload, upload.sha256) or self._shelved(upload, upload.sha256, upload.facts)
                self._done(upload, found)
                return
        except BlobNotFound:
            pass
        self._refuse(upload, InfrastructureError("upload_lost", "The bytes are lost.", hint="Upload the file again."))

    def _still(self, upload_id: str) -> Upload | None:
        """The upload, if it is still to be vetted."""
        try:
            found = self._context.database.read(lambda at: repository.get(at, upload_id, tenant=None))
        except NotFound:
            return None
        return found if found.state is UploadState.VETTING else None

    def _change(self, upload: Upload, **values: Any) -> None:
        self._context.database.write(lambda at: repository.change(at, upload.id, UploadState.VETTING, **values))

    def _done(self, upload: Upload, found: Kept) -> None:
        self._end(upload, UploadState.DONE, resource_id=found.id)

    def _refuse(self, upload: Upload, error: WorkersError | Refused) -> None:
        told = details_of(error).model_dump(mode="json", exclude_none=True)
        self._end(upload, UploadState.REFUSED, problem=told)
        self._staging.remove(upload.id)

    def _end(self, upload: Upload, after: UploadState, **values: Any) -> None:
        with self._lock:
            self._pauses.pop(upload.id, None)
        self._context.database.write(lambda at: repository.end(at, upload.id, UploadState.VETTING, after, **values))
        structlog.get_logger().info("vetted", upload=upload.id, state=after.value)

    def _again(self, upload: Upload, error: InfrastructureError) -> None:
        if upload.attempts >= MOST_ATTEMPTS or error.code == "out_of_memory":
            self._refuse(upload, error)
            return
        self._pause(upload.id, max(1, upload.attempts))

    def _pause(self, upload_id: str, attempts: int) -> None:
        with self._lock:
            self._pauses[upload_id] = time.monotonic() + PAUSE_SECONDS * 2 ** (attempts - 1)


def _refused(told: Any) -> WorkersError | Refused:
    """Intake's refusal, as its sandbox told it."""
    told = dict(told) if isinstance(told, Mapping) else {}
    code, message, entry, hint = (str(told.get(name, ""))[:2000] for name in ("code", "message", "entry", "hint"))
    if code not in CODES:
        return InternalError("bad_result", "The sandbox refused the upload by a code that there is not.")
    return Refused(code, message, entry=entry, hint=hint)
