"""Files of a job by ids that need no table: the job's, and a part of the hash of the file's name."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from aslconvert.service.errors import NotFound
from aslconvert.workers.database import Transaction
from aslconvert.workers.errors import JobNotFound
from aslconvert.workers.jobs import Job
from aslconvert.workers.jobs.reading import job as read_job

REPORT, PAGE = "report.json", "report.html"
_ID = re.compile(r"([0-9a-f-]{36})-([0-9a-f]{16})")


@dataclass(frozen=True)
class Stored:
    """A file of a job's result: its name in the result's folder, its bytes by their SHA-256."""

    id: str
    name: str
    sha256: str
    bytes: int


def files_of(job: Job) -> list[Stored]:
    """All files of the result, by name; none of a job without a result, or whose result has expired."""
    found = dict((job.result or {}).get("files") or {})
    return [
        Stored(_id_of(job.id, name), name, str(entry["sha256"]), int(entry["size"]))
        for name, entry in sorted(found.items())
    ]


def named(job: Job, name: str, *, what: str) -> Stored:
    """One of them. Raises NotFound."""
    found = next((file for file in files_of(job) if file.name == name), None)
    if found is None:
        raise NotFound(what, f"of job {job.id}, which is {job.state.value}")
    return found


def find(at: Transaction, artifact_id: str, *, tenant: str | None) -> Stored:
    """The file with this id, of this tenant; of any where ``tenant`` is None. Raises NotFound."""
    match = _ID.fullmatch(artifact_id)
    if match is None:
        raise NotFound("artifact", artifact_id)
    try:
        job = read_job(at, match.group(1), tenant=tenant)
    except JobNotFound as error:
        raise NotFound("artifact", artifact_id) from error
    found = next((file for file in files_of(job) if file.id == artifact_id), None)
    if found is None:
        raise NotFound("artifact", artifact_id)
    return found


def _id_of(job_id: str, name: str) -> str:
    return f"{job_id}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
