"""Who holds which blob: rows that are written in the transaction of their holder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import delete, insert, select

from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import BlobNotFound
from aslconvert.workers.storage.tables import blob_refs, blobs

JOB: Final = "job"
CHECKPOINT: Final = "checkpoint"


def hold(transaction: Transaction, holder_kind: str, holder_id: str, hashes: Iterable[str]) -> None:
    """Hold blobs for somebody, such as ``job`` and its id; what is held already stays so.

    Raises:
        BlobNotFound: there is no such blob, or it was collected.
    """
    for digest in sorted(set(hashes)):  # in one order everywhere, so that two transactions never wait for each other
        # The lock keeps a collector from deleting the blob before this transaction ends.
        found = select(blobs.c.hash).where(blobs.c.hash == digest).with_for_update(read=True, key_share=True)
        if transaction.connection.execute(found).one_or_none() is None:
            raise BlobNotFound(digest)
        held = (
            (blob_refs.c.hash == digest)
            & (blob_refs.c.holder_kind == holder_kind)
            & (blob_refs.c.holder_id == holder_id)
        )
        if transaction.connection.execute(select(blob_refs.c.hash).where(held)).one_or_none() is None:
            values: dict[str, Any] = {"hash": digest, "holder_kind": holder_kind, "holder_id": holder_id}
            transaction.connection.execute(insert(blob_refs).values(values))


def release(transaction: Transaction, holder_kind: str, holder_id: str) -> None:
    """Let go of everything that somebody held; the bytes go when they are collected."""
    transaction.connection.execute(
        delete(blob_refs).where(blob_refs.c.holder_kind == holder_kind, blob_refs.c.holder_id == holder_id)
    )


def held_by(transaction: Transaction, holder_kind: str, holder_id: str) -> Sequence[str]:
    """The hashes that somebody holds, in order."""
    statement = (
        select(blob_refs.c.hash)
        .where(blob_refs.c.holder_kind == holder_kind, blob_refs.c.holder_id == holder_id)
        .order_by(blob_refs.c.hash)
    )
    return list(transaction.connection.execute(statement).scalars())
