"""What uses a model or a data set, and taking it away with that."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from aslconvert.service.datasets.previews import forget
from aslconvert.service.datasets.tables import previews
from aslconvert.service.errors import Conflict
from aslconvert.service.jobs.submission import drop
from aslconvert.service.jobs.tables import job_inputs
from aslconvert.service.uploads.shelf import Shelf
from aslconvert.workers.database import Transaction

_COLUMNS = {"model": job_inputs.c.model_id, "dataset": job_inputs.c.dataset_id}
_PREVIEWS = {"model": previews.c.model_id, "dataset": previews.c.dataset_id}
_NAMED = 5


class InUse(Conflict):
    """Jobs were given it; ``entry`` names some of them."""

    def __init__(self, type_: str, resource_id: str, jobs: Sequence[str]) -> None:
        super().__init__(
            f"{type_}_in_use",
            f"{len(jobs)} jobs were given {type_} {resource_id}.",
            hint="Delete them first, or ask for cascade=true, which deletes them and their results too.",
        )
        self.entry = ", ".join(jobs[:_NAMED]) + (", ..." if len(jobs) > _NAMED else "")


def take_away(at: Transaction, shelf: Shelf, resource_id: str, *, tenant: str, cascade: bool) -> Sequence[str]:
    """Remove it, with ``cascade`` its jobs too; which jobs those were.

    Raises:
        NotFound, InUse.
        JobActive: one of its jobs has not finished.
    """
    shelf.get(at, resource_id, tenant=tenant)
    using = select(job_inputs.c.job_id).where(job_inputs.c.tenant == tenant, _COLUMNS[shelf.type] == resource_id)
    jobs = list(at.connection.execute(using.order_by(job_inputs.c.job_id)).scalars())
    if jobs and not cascade:
        raise InUse(shelf.type, resource_id, jobs)
    for job_id in jobs:
        drop(at, job_id, tenant=tenant)
    forget(at, _PREVIEWS[shelf.type] == resource_id)
    shelf.remove(at, resource_id, tenant=tenant)
    return jobs
