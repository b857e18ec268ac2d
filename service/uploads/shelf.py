"""Where finished uploads stand: one shelf for models, one for data sets, each tenant's things once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, Table, delete, select

from aslconvert.service.datasets.tables import datasets
from aslconvert.service.errors import NotFound
from aslconvert.service.models.tables import models
from aslconvert.workers.database import Transaction
from aslconvert.workers.database.base import insert_into
from aslconvert.workers.jobs.ids import new_id
from aslconvert.workers.storage import hold, release


@dataclass(frozen=True)
class Kept:
    """A model or a data set (``type``): ``bytes`` as uploaded, under ``sha256``; ``facts`` is what intake told."""

    type: str
    id: str
    tenant: str
    name: str
    kind: str
    bytes: int
    sha256: str
    facts: Mapping[str, Any]
    created: datetime
    architecture: str = ""


class Shelf:
    """The rows of one type, each holding its blob. Other tenants' things do not exist."""

    def __init__(self, type_: str, table: Table) -> None:
        self.type, self.table = type_, table

    def get(self, at: Transaction, resource_id: str, *, tenant: str) -> Kept:
        """One of them. Raises NotFound."""
        found = select(self.table).where(self.table.c.id == resource_id, self.table.c.tenant == tenant)
        row = at.connection.execute(found).one_or_none()
        if row is None:
            raise NotFound(self.type, resource_id)
        return self._kept(row)

    def find(self, at: Transaction, *, tenant: str, sha256: str, architecture: str = "") -> Kept | None:
        """The tenant's one of these bytes, if it has one."""
        table = self.table
        found = select(table).where(table.c.tenant == tenant, table.c.sha256 == sha256)
        if "architecture" in table.c:
            found = found.where(table.c.architecture == architecture)
        row = at.connection.execute(found).one_or_none()
        return None if row is None else self._kept(row)

    def add(
        self,
        at: Transaction,
        *,
        tenant: str,
        name: str,
        kind: str,
        size: int,
        sha256: str,
        facts: Mapping[str, Any],
        architecture: str = "",
    ) -> Kept:
        """Put one up and hold its blob, or give the one that is there already. Raises BlobNotFound."""
        values: dict[str, Any] = {
            "id": new_id(), "tenant": tenant, "name": name, "kind": kind, "bytes": size, "sha256": sha256,
            "facts": dict(facts), "created": at.wall,
        }  # fmt: skip
        if "architecture" in self.table.c:
            values["architecture"] = architecture
        # Two uploads of the same bytes may end at once: one of them makes the row.
        statement = insert_into(at.connection, self.table).values(values).on_conflict_do_nothing()
        at.connection.execute(statement)
        found = self.find(at, tenant=tenant, sha256=sha256, architecture=architecture)
        if found is None:
            raise NotFound(self.type, values["id"])
        hold(at, self.type, found.id, [sha256])
        return found

    def page(self, at: Transaction, *, tenant: str, after: str | None, limit: int) -> Sequence[Kept]:
        """At most ``limit`` of them, newest first, from the one after the id ``after`` on."""
        table = self.table
        statement = select(table).where(table.c.tenant == tenant).order_by(table.c.id.desc()).limit(limit)
        if after is not None:
            statement = statement.where(table.c.id < after)
        return [self._kept(row) for row in at.connection.execute(statement)]

    def held(self, tenant: str) -> Select[tuple[str]]:
        """The hashes of the tenant's blobs, for its quota."""
        return select(self.table.c.sha256).where(self.table.c.tenant == tenant)

    def remove(self, at: Transaction, resource_id: str, *, tenant: str) -> None:
        """Take it down and let go of its blob. Raises NotFound."""
        gone = delete(self.table).where(self.table.c.id == resource_id, self.table.c.tenant == tenant)
        if at.connection.execute(gone).rowcount == 0:
            raise NotFound(self.type, resource_id)
        release(at, self.type, resource_id)

    def _kept(self, row: Any) -> Kept:
        return Kept(type=self.type, **row._mapping)


MODELS: Final = Shelf("model", models)
DATASETS: Final = Shelf("dataset", datasets)
SHELVES: Final[Mapping[str, Shelf]] = {"model": MODELS, "dataset": DATASETS}
