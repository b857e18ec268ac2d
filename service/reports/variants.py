"""Variants as a report tells them; the report is read as data, since a job wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from aslconvert.service.errors import NotFound
from aslconvert.service.reports.files import REPORT, Stored, files_of, named
from aslconvert.service.reports.schemas import Artifact, Interval, Metric, Variant
from aslconvert.workers.errors import InternalError
from aslconvert.workers.jobs import Job
from aslconvert.workers.results import REPORT_BYTES
from aslconvert.workers.storage import Blobs


class Reports:
    """Reports by their hash; the last few are kept, as pages ask for the same again and again."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._read = lru_cache(maxsize=16)(self._parse)

    def of(self, job: Job) -> Mapping[str, Any]:
        """The report of a job. Raises NotFound, InternalError ``bad_report``."""
        return self._read(named(job, REPORT, what="report").sha256)

    def _parse(self, digest: str) -> Mapping[str, Any]:
        with self._blobs.store.open(digest) as file:
            data = file.read(REPORT_BYTES + 1)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InternalError("bad_report", "The report cannot be read.") from error
        if len(data) > REPORT_BYTES or not isinstance(found, dict):
            raise InternalError("bad_report", "The report cannot be read.")
        return found


def variants_of(reports: Reports, job: Job) -> list[Variant]:
    """The variants of a job, in the report's order. Raises NotFound, InternalError ``bad_report``."""
    report = reports.of(job)
    chosen = report.get("chosen")
    formats = formats_of(report)
    files = [artifact_of(file, formats) for file in files_of(job) if file.name in formats]
    try:
        return [_variant(job.id, entry, chosen, files) for entry in report["variants"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InternalError("bad_report", "The report cannot be read.") from error


def formats_of(report: Mapping[str, Any]) -> dict[str, str]:
    """What kind of artifact each file is that the report describes."""
    found = report.get("artifacts")
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    return {str(entry.get("path")): str(entry.get("kind", "")) for entry in entries}


def artifact_of(file: Stored, formats: Mapping[str, str]) -> Artifact:
    """A file as it is told; one that the report does not describe is called by its suffix."""
    known = formats.get(file.name) or PurePosixPath(file.name).suffix.removeprefix(".") or "file"
    return Artifact(
        id=file.id,
        name=file.name,
        format=known,
        bytes=file.bytes,
        sha256=file.sha256,
        url=f"/v1/artifacts/{file.id}",
    )


def artifacts_of(reports: Reports, job: Job) -> list[Artifact]:
    """Every file of a job's result."""
    try:
        formats = formats_of(reports.of(job))
    except NotFound:
        formats = {}
    return [artifact_of(file, formats) for file in files_of(job)]


def _variant(job_id: str, entry: Mapping[str, Any], chosen: object, files: list[Artifact]) -> Variant:
    latency = {str(name): float(value["p50_ms"]) for name, value in (entry.get("latency") or {}).items()}
    fastest = min(latency, key=lambda name: latency[name]) if latency else ""
    metric, loss = entry.get("metric"), entry.get("loss")
    recommended = entry["id"] == chosen
    return Variant(
        id=f"{job_id}.{entry['id']}",
        job=job_id,
        name=str(entry["id"]),
        recommended=recommended,
        speedup=_number((entry.get("speedup") or {}).get(fastest)),
        speedup_ci=_interval((entry.get("speedup_ci") or {}).get(fastest)),
        latency_ms=latency.get(fastest),
        metric=None if metric is None else _metric(metric),
        loss=None if loss is None else _number(loss["value"]),
        loss_ci=None if loss is None else _interval(loss.get("ci")),
        artifacts=files if recommended else [],
    )


def _metric(found: Mapping[str, Any]) -> Metric | None:
    value = _number(found["value"])
    if value is None:
        return None
    return Metric(
        name=str(found["name"]), value=value, ci=_interval(found.get("ci")), unit=str(found.get("unit") or "")
    )


def _number(found: Any) -> float | None:
    # What JSON has no number for becomes null, as reports have it.
    return float(found) if found is not None and math.isfinite(float(found)) else None


def _interval(found: Any) -> Interval | None:
    if found is None:
        return None
    low, high = (_number(end) for end in found)
    return None if low is None or high is None else (low, high)
