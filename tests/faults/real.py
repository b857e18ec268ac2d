"""Real conversions of a small network while their workers are killed: the same promises as of jobs that only count."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from cluster import Cluster, cluster, wait_for
from soak import kill_sandbox, kill_worker, stop_worker
from tally import Tally
from torch import nn

from aslconvert.workers.jobs import FINISHED, Kind, NewJob, Queue, State

PATIENCE = 900.0
FAULTS = {
    "kill -9 of a worker": kill_worker,
    "kill -9 of the sandbox": kill_sandbox,
    "SIGTERM to a worker": stop_worker,
}
OPTIONS = {"min_speedup": 1.01, "heal_steps": 300, "threads": 1, "artifacts": ["portable"]}


def network() -> bytes:
    """A program that is worth converting."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(48, 3, 1)).eval()
    file = io.BytesIO()
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=shapes), file)
    return file.getvalue()


def images() -> bytes:
    """Smooth noise."""
    noise = torch.randn(60, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    file = io.BytesIO()
    np.savez(file, input=nn.functional.avg_pool2d(noise, 3, stride=1, padding=1).numpy())
    return file.getvalue()


def conversions(runs: int, *, seed: int, place: Path) -> Tally:
    """``runs`` conversions, each hit once at a moment that ``seed`` draws; one before them tells how long they take."""
    random.seed(seed)
    tally = Tally()
    with cluster(place, engine="") as at:
        seconds = _convert(at, tally, fault=None, within=0.0)
        for number in range(runs):
            fault = list(FAULTS)[number % len(FAULTS)]
            took = _convert(at, tally, fault=fault, within=seconds)
            print(
                f"{number + 1}/{runs} real conversion, {fault}: {took:.0f} s, undisturbed {seconds:.0f} s", flush=True
            )
    return tally


def _convert(at: Cluster, tally: Tally, *, fault: str | None, within: float) -> float:
    hashes = {name: at.blobs.put(io.BytesIO(data)).hash for name, data in (("model", network()), ("data", images()))}
    new = NewJob(
        "soak", Kind.CONVERT, Queue.CPU, {**hashes, "options": OPTIONS}, max_attempts=20, blobs=list(hashes.values())
    )
    begun = time.monotonic()
    job = at.store.submit(new)
    at.outbox.wake()
    wait_for(lambda: at.store.job(job.id).state is not State.QUEUED, seconds=PATIENCE)
    state = None
    if fault is not None:
        # The last moments are left out: a run that is quicker than the first would be over.
        time.sleep(random.uniform(0, 0.8 * within))
        state = at.store.checkpoint(job.id)
        FAULTS[fault](at, [job])
        tally.faults[fault] += 1
        hit = time.monotonic()
        counted = at.store.job(job.id).event_count
        with contextlib.suppress(TimeoutError):
            wait_for(
                lambda: at.store.job(job.id).event_count > counted or at.store.job(job.id).state in FINISHED,
                seconds=PATIENCE,
            )
        tally.recovery_s.append(time.monotonic() - hit)
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: at.store.job(job.id).state in FINISHED, seconds=PATIENCE)
    tally.runs += 1
    _judge(at, job.id, state, tally)
    return time.monotonic() - begun


def _judge(at: Cluster, job_id: str, state: str | None, tally: Tally) -> None:
    job = at.store.job(job_id)
    if job.state not in FINISHED:
        tally.lost += 1
        return
    events = at.store.events_after(job_id)
    tally.duplicated += sum(event.type in FINISHED for event in events) != 1
    if job.state is not State.SUCCEEDED or job.result is None:
        tally.wrong += 1
        print(f"{job_id}: {job.state}, {job.problem}", file=sys.stderr)
        return
    with at.blobs.store.open(job.result["files"]["report.json"]["sha256"]) as file:
        report = json.load(file)
    tally.wrong += not all(entry["reloaded"] for entry in report["artifacts"])
    runs = [number for number, event in enumerate(events) if event.type == "running"]
    if state is not None and len(runs) > 1:
        # A search that was stored is not made again.
        again = {event.data.get("stage") for event in events[runs[1] :] if event.type == "stage"}
        tally.unusable_checkpoints += "damage of each site" in again
