"""Previews of data sets: asked for, made in a sandbox, kept as blobs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from pydantic import ValidationError
from sqlalchemy import Row, Select, delete, func, select, update

from aslconvert.service.context import Context
from aslconvert.service.datasets.schemas import Preview
from aslconvert.service.datasets.tables import datasets, previews
from aslconvert.service.errors import ProblemDetails, ServiceError, details_of
from aslconvert.service.keys.usage import require_storage
from aslconvert.service.uploads import repository
from aslconvert.service.uploads.desk import by_turns
from aslconvert.service.uploads.shelf import DATASETS, MODELS, Kept
from aslconvert.workers.database import Transaction
from aslconvert.workers.database.base import insert_into
from aslconvert.workers.errands import Errand, Interrupted, run_errand
from aslconvert.workers.errors import BlobNotFound, InfrastructureError, InternalError, WorkersError
from aslconvert.workers.plain import remove_tree
from aslconvert.workers.sandbox.limits import Limits
from aslconvert.workers.storage import hold, release
from aslconvert.workers.storage.base import CHUNK
from aslconvert.workers.storage.staging import coded

ENGINE: Final = "aslconvert.workers.preview:run"
HOLDER: Final = "preview"
MOST_BYTES: Final = 32 << 20
MOST_OF_ONE: Final = 64
"""Previews that are kept of a data set; the oldest goes for the next."""

MOST_MAKING: Final = 4
"""Of one tenant at a time: else one key could keep the sandboxes from all others."""

MOST_ATTEMPTS: Final = 2
PAUSE: Final = timedelta(seconds=30)
"""Before a preview that failed for want of something is begun anew; twice as long each time, up to `LONGEST`."""

LONGEST: Final = timedelta(hours=1)
_SAFE: Final = timedelta(hours=1)
_ID: Final = re.compile(r"[0-9a-f]{64}")
MAKING, DONE, FAILED = "making", "done", "failed"


class TooManyPreviews(ServiceError):
    """The tenant waits for as many previews as it may."""

    status = 429

    def __init__(self) -> None:
        told = f"{MOST_MAKING} previews are being made for this tenant."
        super().__init__("too_many_previews", told, hint="Wait for one of them.", headers={"Retry-After": "5"})


class Previews:
    """Makes previews at the desk and tells how far they are; safe for threads."""

    def __init__(self, context: Context, folder: Path, stopping: Callable[[], bool]) -> None:
        self._context, self._folder, self._stopping = context, folder, stopping
        self._pauses: dict[str, float] = {}
        self._lock = threading.Lock()
        self.wake: Callable[[], None] = lambda: None

    def ask(
        self, dataset: Kept, model: Kept | None, *, samples: int, options: Mapping[str, Any]
    ) -> Preview | ProblemDetails | None:
        """The preview, why there is none, or None while it is being made.

        What failed for want of something is told, and begun anew by whoever asks after a pause.

        Raises:
            TooManyPreviews, QuotaExceeded: it would have to be made.
        """
        asked = {
            "dataset": dataset.id,
            "model": None if model is None else model.id,
            "samples": samples,
            "options": dict(sorted(options.items())),
        }
        preview_id = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        row = self._context.database.read(lambda at: _row(at, preview_id))
        if row is None or (row.state == FAILED and self._may_begin_anew(row)):

            def begin(at: Transaction) -> None:
                repository.one_at_a_time(at, dataset.tenant)
                if _making(at, dataset.tenant) >= MOST_MAKING:
                    raise TooManyPreviews
                require_storage(at, self._context.settings, dataset.tenant, 0)
                _begin(at, preview_id, dataset, model, asked)

            self._context.database.write(begin)
            self.wake()
            return None
        if row.state == FAILED:
            return ProblemDetails.model_validate(row.problem)
        if row.state == MAKING:
            return None
        try:
            with self._context.blobs.store.open(row.sha256) as file:
                return Preview.model_validate_json(file.read())
        except BlobNotFound:
            self._context.database.write(lambda at: at.connection.execute(delete(previews).where(_is(preview_id))))
            return None

    def waiting(self) -> list[str]:
        """Previews that are to be made, one of each tenant at a time."""
        asked = (
            select(datasets.c.tenant, previews.c.id)
            .join(datasets, datasets.c.id == previews.c.dataset_id)
            .where(previews.c.state == MAKING)
            .order_by(previews.c.created)
        )
        found = self._context.database.read(lambda at: list(at.connection.execute(asked)))
        now = time.monotonic()
        with self._lock:
            return by_turns((row.tenant, row.id) for row in found if self._pauses.get(row.id, 0.0) <= now)

    def see_through(self, preview_id: str) -> None:
        """Make one, if nobody else does."""
        with self._alone(preview_id) as alone:
            if not alone:
                self._pause(preview_id)
                return
            row = self._context.database.read(lambda at: _row(at, preview_id))
            if row is None or row.state != MAKING:
                return
            # A try that has told nothing took the service down with it, or was killed together with it.
            if row.problem is None and row.attempts >= MOST_ATTEMPTS:
                told = "Making the preview was cut off again and again."
                self._fail(row, InfrastructureError("preview_gave_up", told))
                return
            tries = row.attempts + 1
            self._change(row, attempts=tries, problem=None)
            try:
                self._keep(row, self._made(row))
            except Interrupted:
                self._change(row, attempts=row.attempts, problem=row.problem)
            except BlobNotFound as error:
                # The row says that it is there: no fault of whoever asks.
                self._fail(row, InfrastructureError("data_lost", error.message))
            except InfrastructureError as error:
                if tries < MOST_ATTEMPTS:
                    self._change(row, problem=_told(error))
                    self._pause(preview_id)
                else:
                    self._fail(row, error)
            except WorkersError as error:
                self._fail(row, error)

    def sweep(self) -> None:
        """Remove what killed processes left of previews that are not being made any more."""
        for preview_id in {path.name.removesuffix(".in") for path in self._folder.glob("*")}:
            if _ID.fullmatch(preview_id):
                self._tidy(preview_id)

    def _tidy(self, preview_id: str) -> None:
        with self._alone(preview_id) as alone:
            if not alone:
                return
            row = self._context.database.read(lambda at: _row(at, preview_id))
            if row is None or row.state != MAKING:
                remove_tree(self._folder / preview_id)
                remove_tree(self._folder / f"{preview_id}.in")

    def _may_begin_anew(self, row: Row[Any]) -> bool:
        pause = min(LONGEST, PAUSE * 2 ** min(max(0, row.attempts - 1), 16))
        over: bool = row.created + pause <= self._context.database.clock.wall()
        return row.problem["kind"] != "user" and over

    def _made(self, row: Row[Any]) -> Preview:
        settings, asked = self._context.settings, row.asked
        inputs = self._folder / f"{row.id}.in"
        try:
            payload = {"samples": asked["samples"], "options": asked["options"], **self._fetched(row, inputs)}
            errand = Errand(
                engine=ENGINE,
                kind="preview",
                payload=payload,
                readable=(inputs.resolve(),),
                limits=Limits(memory=settings.preview_memory, cpu_seconds=int(4 * settings.preview_seconds) + 1),
                seconds=settings.preview_seconds,
                most_bytes=MOST_BYTES,
                strict=settings.strict,
            )
            result = run_errand(errand, folder=self._folder / row.id, stopping=self._stopping)
        finally:
            remove_tree(inputs)
        try:
            return Preview.model_validate(result)
        except ValidationError as error:
            raise InternalError("bad_result", "The sandbox gave no preview.") from error

    def _fetched(self, row: Row[Any], inputs: Path) -> dict[str, Any]:
        """The files of the blobs, as the sandbox is told of them."""

        def find(at: Transaction) -> tuple[Kept, Kept | None]:
            tenant = at.connection.execute(
                select(DATASETS.table.c.tenant).where(DATASETS.table.c.id == row.dataset_id)
            ).scalar_one()
            model = None if row.model_id is None else MODELS.get(at, row.model_id, tenant=tenant)
            return DATASETS.get(at, row.dataset_id, tenant=tenant), model

        dataset, model = self._context.database.read(find)
        with coded():
            inputs.mkdir(parents=True, exist_ok=True)
        payload: dict[str, Any] = {"data": self._copied(dataset.sha256, inputs / "data")}
        if model is not None:
            payload["model"] = self._copied(model.sha256, inputs / "model")
            payload["architecture"] = model.architecture or None
        return payload

    def _copied(self, digest: str, path: Path) -> str:
        with self._context.blobs.store.open(digest) as source, coded(), path.open("wb") as target:
            while chunk := source.read(CHUNK):
                if self._stopping():
                    raise Interrupted
                target.write(chunk)
        return str(path.resolve())

    def _keep(self, row: Row[Any], preview: Preview) -> None:
        text = preview.model_dump_json().encode()

        def work(at: Transaction) -> None:
            if _change(at, row.id, state=DONE, sha256=blob.hash, problem=None):
                hold(at, HOLDER, row.id, [blob.hash])

        blob = self._context.blobs.put(io.BytesIO(text), expires=self._context.database.clock.wall() + _SAFE)
        self._context.database.write(work)

    def _fail(self, row: Row[Any], error: WorkersError) -> None:
        structlog.get_logger().info("no preview", preview=row.id, code=error.code)
        # From now on the pause counts.
        self._change(row, state=FAILED, problem=_told(error), created=self._context.database.clock.wall())

    def _change(self, row: Row[Any], **values: Any) -> None:
        self._context.database.write(lambda at: _change(at, row.id, **values))

    def _pause(self, preview_id: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._pauses = {one: until for one, until in self._pauses.items() if until > now}
            self._pauses[preview_id] = now + 2.0

    @contextlib.contextmanager
    def _alone(self, preview_id: str) -> Iterator[bool]:
        """Whether no other process of this folder makes it; a lock that dies with its holder."""
        with coded():
            self._folder.mkdir(parents=True, exist_ok=True)
            # One file for all that could be alike is enough, and none has to be removed.
            file = (self._folder / f"preview-{preview_id[:2]}.lock").open("ab")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def forget(at: Transaction, condition: Any) -> None:
    """Remove previews and let go of their blobs; ``condition`` is on the table of previews."""
    for preview_id in at.connection.execute(select(previews.c.id).where(condition)).scalars().all():
        release(at, HOLDER, preview_id)
    at.connection.execute(delete(previews).where(condition))


def held_by(tenant: str) -> Select[tuple[str]]:
    """The hashes of a tenant's previews, for its quota."""
    of_tenant = select(datasets.c.id).where(datasets.c.tenant == tenant)
    return select(previews.c.sha256).where(previews.c.dataset_id.in_(of_tenant), previews.c.sha256.is_not(None))


def _told(error: WorkersError) -> dict[str, Any]:
    return details_of(error).model_dump(mode="json", exclude_none=True)


def _making(at: Transaction, tenant: str) -> int:
    of_tenant = select(datasets.c.id).where(datasets.c.tenant == tenant)
    waiting = select(func.count()).select_from(previews)
    waiting = waiting.where(previews.c.dataset_id.in_(of_tenant), previews.c.state == MAKING)
    return int(at.connection.execute(waiting).scalar_one())


def _is(preview_id: str) -> Any:
    return previews.c.id == preview_id


def _row(at: Transaction, preview_id: str) -> Row[Any] | None:
    return at.connection.execute(select(previews).where(_is(preview_id))).one_or_none()


def _change(at: Transaction, preview_id: str, **values: Any) -> bool:
    mine = _is(preview_id) & (previews.c.state == MAKING)
    return at.connection.execute(update(previews).where(mine).values(**values)).rowcount > 0


def _begin(at: Transaction, preview_id: str, dataset: Kept, model: Kept | None, asked: Mapping[str, Any]) -> None:
    values: dict[str, Any] = {
        "id": preview_id, "dataset_id": dataset.id, "model_id": None if model is None else model.id,
        "asked": dict(asked), "state": MAKING, "attempts": 0, "created": at.wall,
    }  # fmt: skip
    mine = previews.c.dataset_id == dataset.id
    kept = int(at.connection.execute(select(func.count()).select_from(previews).where(mine)).scalar_one())
    if kept >= MOST_OF_ONE:
        oldest = select(previews.c.id).where(mine, previews.c.state != MAKING).order_by(previews.c.created).limit(1)
        forget(at, previews.c.id.in_(list(at.connection.execute(oldest).scalars())))
    # With the problem of its last try, so that this one counts as no more than one.
    anew = update(previews).where(_is(preview_id), previews.c.state == FAILED).values(state=MAKING, created=at.wall)
    if at.connection.execute(anew).rowcount > 0:
        return
    at.connection.execute(insert_into(at.connection, previews).values(values).on_conflict_do_nothing())
