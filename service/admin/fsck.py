"""Compares records with blobs, both ways. It changes nothing and may run while the service does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import ColumnElement, Table, select

from aslconvert.service.admin.backup import HOLDER as BACKUP
from aslconvert.service.datasets.previews import HOLDER as PREVIEW
from aslconvert.service.datasets.tables import previews
from aslconvert.service.uploads.shelf import DATASETS, MODELS
from aslconvert.workers.database import Database, Transaction
from aslconvert.workers.errors import BlobNotFound, DamagedBlob
from aslconvert.workers.jobs.tables import jobs
from aslconvert.workers.storage import Blobs
from aslconvert.workers.storage.base import CHUNK, Blob
from aslconvert.workers.storage.references import CHECKPOINT, JOB
from aslconvert.workers.storage.tables import blob_refs, blobs

Kind = Literal["missing", "size", "damaged", "unheld", "orphan", "stray"]

HARMLESS: Final[frozenset[Kind]] = frozenset({"stray", "orphan"})
"""Findings that cost space and no data."""

_HOLDERS: Final[dict[str, Table]] = {
    JOB: jobs,
    CHECKPOINT: jobs,
    MODELS.type: MODELS.table,
    DATASETS.type: DATASETS.table,
    PREVIEW: previews,
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that does not fit.

    missing: a record's blob is not in the store. size, damaged: it has other bytes. unheld: a model or a data set does
    not hold its blob, which may be collected. orphan: a blob is held by something that is no more. stray: bytes in the
    store that no record knows.
    """

    kind: Kind
    blob: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was compared, and what does not fit."""

    blobs: int
    blob_bytes: int
    references: int
    stored: int
    findings: Sequence[Finding]

    @property
    def lost(self) -> bool:
        """Whether data is lost or in danger."""
        return any(finding.kind not in HARMLESS for finding in self.findings)


def check(
    database: Database, store: Blobs, *, deep: bool = False, tell: Callable[[str], None] = lambda _: None
) -> Checked:
    """Compare. ``deep`` also reads every byte and compares its hash, which takes as long as the disk does.

    Raises:
        InfrastructureError: whatever database and storage raise.
    """
    rows = database.read(_rows)
    findings = [*database.read(_references), *_bytes(database, store, rows, deep=deep, tell=tell)]
    known = {blob.hash for blob in rows}
    stored = 0
    for blob in store.store.stored():
        stored += 1
        # A put enters its record before its bytes can be seen: what is still unknown at a second look stays so.
        if blob.hash not in known and not database.read(lambda at, digest=blob.hash: _known(at, digest)):  # type: ignore[misc]
            findings.append(Finding(kind="stray", blob=blob.hash, detail=f"{blob.size} bytes that no record knows"))
    return Checked(
        blobs=len(rows),
        blob_bytes=sum(blob.size for blob in rows),
        references=database.read(_count_references),
        stored=stored,
        findings=findings,
    )


def _rows(at: Transaction) -> list[Blob]:
    return [Blob(row.hash, row.size) for row in at.connection.execute(select(blobs.c.hash, blobs.c.size)).all()]


def _known(at: Transaction, digest: str) -> bool:
    return at.connection.execute(select(blobs.c.hash).where(blobs.c.hash == digest)).one_or_none() is not None


def _count_references(at: Transaction) -> int:
    return len(at.connection.execute(select(blob_refs.c.hash)).all())


def _bytes(
    database: Database, store: Blobs, rows: Sequence[Blob], *, deep: bool, tell: Callable[[str], None]
) -> Iterator[Finding]:
    for count, blob in enumerate(rows, 1):
        finding = _one(store, blob, deep=deep)
        # A blob that is collected meanwhile loses its record with its bytes.
        if finding is not None and database.read(lambda at, digest=blob.hash: _known(at, digest)):  # type: ignore[misc]
            yield finding
        if count % 1000 == 0:
            tell(f"{count} of {len(rows)} blobs")


def _one(store: Blobs, blob: Blob, *, deep: bool) -> Finding | None:
    try:
        size = store.store.size(blob.hash)
        if size != blob.size:
            return Finding(kind="size", blob=blob.hash, detail=f"{size} bytes instead of {blob.size}")
        if deep:
            with store.store.open(blob.hash) as source:
                while source.read(CHUNK):
                    pass
    except BlobNotFound:
        return Finding(kind="missing", blob=blob.hash, detail=f"{blob.size} bytes are not in the store")
    except DamagedBlob:
        return Finding(kind="damaged", blob=blob.hash, detail="its bytes have another hash")
    return None


def _references(at: Transaction) -> Iterator[Finding]:
    found = []
    for kind, table in _HOLDERS.items():
        gone = select(blob_refs.c.hash, blob_refs.c.holder_id).where(
            blob_refs.c.holder_kind == kind, blob_refs.c.holder_id.not_in(select(table.c.id))
        )
        for row in at.connection.execute(gone).all():
            detail = f"held by {kind} {row.holder_id}, which is no more"
            found.append(Finding(kind="orphan", blob=row.hash, detail=detail))
    unknown = select(blob_refs.c.hash, blob_refs.c.holder_kind).where(
        blob_refs.c.holder_kind.not_in([*_HOLDERS, BACKUP])
    )
    for row in at.connection.execute(unknown).all():
        found.append(Finding(kind="orphan", blob=row.hash, detail=f"held by a {row.holder_kind}, which nothing knows"))
    for shelf in (MODELS, DATASETS):
        for row in at.connection.execute(select(shelf.table).where(~_holds(shelf.type, shelf.table))).all():
            found.append(Finding(kind="unheld", blob=row.sha256, detail=f"{shelf.type} {row.id} does not hold it"))
    return iter(found)


def _holds(kind: str, table: Table) -> ColumnElement[bool]:
    return (
        select(blob_refs.c.hash)
        .where(
            blob_refs.c.hash == table.c.sha256,
            blob_refs.c.holder_kind == kind,
            blob_refs.c.holder_id == table.c.id,
        )
        .exists()
    )
