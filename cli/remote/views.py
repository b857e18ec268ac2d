"""Readable pages of jobs and keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from aslconvert.service.client import Client, Job, Key


def show_job(job: Job, console: Console) -> None:
    """Where a job stands, and why it ended."""
    where = job.state if job.stage is None or job.done else f"{job.state}: {job.stage}"
    console.print(f"{job.id}  {job.kind}  {where}", markup=False)
    if job.progress is not None and not job.done:
        total = "" if job.progress.total is None else f"/{job.progress.total:g}"
        eta = "" if job.eta_s is None else f", about {job.eta_s:.0f} s to go in this stage"
        console.print(f"  {job.progress.done:g}{total} {job.progress.unit}{eta}", markup=False)
    if job.position is not None:
        console.print(f"  place {job.position} in the queue")
    console.print(f"  attempt {job.attempt} of {job.max_attempts}, created {_time(job.created)}", markup=False)
    if job.finished is not None:
        console.print(f"  finished {_time(job.finished)}, kept until {_time(job.expires)}", markup=False)
    if job.missed is not None:
        console.print(f"  missed: {job.missed.message} {job.missed.hint}".rstrip(), markup=False)
    if job.error is not None:
        console.print(f"  {job.error.code}: {job.error.detail} {job.error.hint}".rstrip(), markup=False)


def result_line(client: Client, job: Job) -> str:
    """What came of a job that succeeded, and how to get it, in one line."""
    if job.kind != "convert":
        told = "the forecast is there" if job.kind == "inspect" else "the latencies are there"
        return f"{told}: aslconvert status {job.id} --json"
    best = next((one for one in client.variants(job.id) if one.recommended), None)
    told = "no variant is recommended"
    if best is not None:
        told = best.name or best.id
        if best.speedup is not None:
            told += f", {best.speedup:.2f} times as fast"
        if best.loss is not None:
            unit = "" if best.metric is None else f" {best.metric.unit or best.metric.name}"
            told += f", loses {best.loss:.3g}{unit}"
    missed = "" if job.missed is None else f" ({job.missed.code})"
    return f"{told}{missed}: aslconvert download {job.id} --out DIR"


def show_jobs(jobs: Sequence[Job], console: Console) -> None:
    """Jobs, newest first."""
    table = Table(title="jobs", title_justify="left")
    for heading in ("job", "kind", "state", "stage", "created", "finished"):
        table.add_column(heading)
    for job in jobs:
        table.add_row(job.id, job.kind, job.state, job.stage or "", _time(job.created), _time(job.finished))
    console.print(table)


def show_keys(keys: Sequence[Key], console: Console) -> None:
    """Keys without their secrets."""
    table = Table(title="keys", title_justify="left")
    for heading in ("id", "name", "tenant", "scopes", "created", "expires", "last used", "revoked"):
        table.add_column(heading)
    for key in keys:
        moments = (key.created, key.expires, key.last_used, key.revoked)
        table.add_row(key.id, key.name, key.tenant or "", " ".join(key.scopes), *map(_time, moments))
    console.print(table)


def _time(moment: datetime | None) -> str:
    return "" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")
