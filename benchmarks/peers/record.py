"""The file of all rows, with the page and the picture made from it; several processes may add to it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from aslconvert.converter.cost.device import device_profile
from aslconvert.converter.errors import UsageError
from aslconvert.converter.export.atomic import write_file
from peers.chart import picture
from peers.table import page
from peers.tasks import Task

Row = dict[str, Any]
FILE = "peers.json"
KEY = ("task", "method", "point", "seed", "budget")
"""Rows that are equal in these are of one variant. Left-out entries have a code instead of a point."""


class Record:
    """``peers.json`` in a folder; ``rows`` and ``left_out`` are as of the last ``add``."""

    def __init__(self, out: Path, *, fresh: bool) -> None:
        self._out = out
        if fresh:
            (out / FILE).unlink(missing_ok=True)
        self._take(_read(out))

    def add(self, task: Task, rows: Sequence[Row], left_out: Sequence[Row], *, threads: int) -> None:
        """Take in what was measured, with the device and the day, and write the files.

        What another process has added meanwhile is kept.
        """
        device = {"cpu": device_profile(threads=threads).cpu, "threads": threads, "torch": torch.__version__}
        origin = {"device": device, "date": datetime.now(UTC).date().isoformat()}
        fresh = {
            "device": device,
            "tasks": {task.name: task.note},
            "rows": [{**row, **origin} for row in rows],
            "left_out": [{**row, **origin} for row in left_out],
        }
        with _alone(self._out):
            record = merged([_read(self._out), fresh])
            _write(self._out, record)
        self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        self.rows: list[Row] = record.get("rows", [])
        self.left_out: list[Row] = record.get("left_out", [])


def join(folders: Sequence[Path], out: Path) -> int:
    """Write the rows of the runs in ``folders`` to ``out``, beside those that it has; returns how many there are.

    Raises:
        UsageError: ``no_record``, where a folder holds none.
    """
    for folder in folders:
        if not (folder / FILE).is_file():
            raise UsageError("no_record", f"There is no {FILE} in '{folder}'.", hint="Name the --out of earlier runs.")
    with _alone(out):
        record = merged([_read(out), *(_read(folder) for folder in folders)])
        _write(out, record)
    return len(record["rows"])


def merged(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One record of several: of rows of one variant the latest counts, and later records before earlier ones on a day.

    Rows that came without a device or a day get the device of their record, and no day.
    """
    filled = [record for record in records if record]
    parts: dict[str, list[Row]] = {}
    for name, keys in (("rows", KEY), ("left_out", ("code", *KEY[:2], *KEY[3:]))):
        found: dict[tuple[Any, ...], Row] = {}
        for record in filled:
            for row in record.get(name, []):
                row = {"device": record["device"], "date": "", **row}
                key = tuple(row[part] for part in keys)
                if key not in found or row["date"] >= found[key]["date"]:
                    found[key] = row
        parts[name] = list(found.values())
    tasks = {name: note for record in filled for name, note in record.get("tasks", {}).items()}
    return {"device": filled[-1]["device"] if filled else {}, "tasks": tasks, **parts}


def _read(out: Path) -> dict[str, Any]:
    path = out / FILE
    record: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return record


def _write(out: Path, record: Mapping[str, Any]) -> None:
    write_file(out / FILE, (json.dumps(record, indent=2) + "\n").encode())
    if record["rows"]:
        write_file(out / "peers.md", page(record).encode())
        write_file(out / "peers.svg", picture(record).encode())


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No other process reads and writes the record of ``out`` meanwhile."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".peers.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
