"""`make bench-peers`, or `PYTHONPATH=benchmarks python -m peers`: structural compression methods at equal conditions.

Writes peers.json, peers.md and peers.svg to --out. Rows that peers.json has of the same task, method, seed and budget
are kept; an interrupted run goes on where it stopped. `--quick` is a whole run that takes few steps of everything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from aslconvert.converter.cost.device import device_profile
from aslconvert.converter.errors import AslconvertError
from aslconvert.converter.export.atomic import write_file
from peers.chart import picture
from peers.context import Settings
from peers.methods import RUNNABLE
from peers.run import drop_checkpoints, folder_of, forget, missing, run_task
from peers.table import page
from peers.tasks import NAMES, Task, load_task

QUICK_STEPS = 20
QUICK_POINTS = 1
QUICK_ROUNDS = 5


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--methods", nargs="+", default=list(RUNNABLE), choices=RUNNABLE)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of healing a variant")
    parser.add_argument("--steps", type=int, help="steps of healing a variant, instead of seconds")
    parser.add_argument("--points", type=int, help="variants of each other method at most; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="samples of every latency")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too, of everything")
    parser.add_argument("--quick", action="store_true", help="few steps, one point a method")
    parser.add_argument("--fresh", action="store_true", help="forget the rows and plans of earlier runs")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    return parser.parse_args(given)


def settings_of(options: argparse.Namespace) -> Settings:
    """What the command line asks for."""
    settings = Settings(
        budget=options.budget,
        steps=options.steps,
        points=options.points,
        threads=options.threads,
        rounds=options.rounds,
        compile=options.compile,
    )
    if options.quick:
        settings = dataclasses.replace(
            settings, steps=options.steps or QUICK_STEPS, points=QUICK_POINTS, rounds=QUICK_ROUNDS, quick=True
        )
    return settings


class Record:
    """The file of all rows, the page and the picture made from it."""

    def __init__(self, out: Path, *, fresh: bool) -> None:
        self._out = out
        path = out / "peers.json"
        kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() and not fresh else {}
        self.rows: list[dict[str, Any]] = kept.get("rows", [])
        self.left_out: list[dict[str, Any]] = kept.get("left_out", [])
        self._tasks: dict[str, str] = kept.get("tasks", {})

    def add(self, task: Task, rows: list[dict[str, Any]], left_out: list[dict[str, Any]], *, threads: int) -> None:
        """Take in what was measured and write the files."""
        self.rows += rows
        self.left_out += left_out
        self._tasks[task.name] = task.note
        profile = device_profile(threads=threads)
        record = {
            "device": {"cpu": profile.cpu, "threads": threads, "torch": torch.__version__},
            "tasks": self._tasks,
            "rows": self.rows,
            "left_out": self.left_out,
        }
        self._out.mkdir(parents=True, exist_ok=True)
        write_file(self._out / "peers.json", (json.dumps(record, indent=2) + "\n").encode())
        if self.rows:
            write_file(self._out / "peers.md", page(record).encode())
            write_file(self._out / "peers.svg", picture(record).encode())


def main(given: list[str] | None = None) -> int:
    """Runs what is missing; the files are written after each task and seed. Exit code 1 when a task failed."""
    # Torch warns about its own use of its own tree specs when a graph is copied.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    options = arguments(given)
    settings = settings_of(options)
    torch.set_num_threads(options.threads)
    work = options.out / "peers"
    if options.fresh:
        forget(work)
    record = Record(options.out, fresh=options.fresh)
    failed = False
    for name in options.tasks:
        try:
            task = load_task(name, quick=options.quick)
            for seed in options.seeds:
                wanted = {"task": name, "seed": seed, "budget": settings.label}
                methods = missing(record.rows, record.left_out, options.methods, wanted)
                if methods:
                    rows, left_out = run_task(task, methods, settings, seed=seed, work=work)
                    record.add(task, rows, left_out, threads=options.threads)
                    drop_checkpoints(folder_of(task, settings, seed=seed, work=work))
        except AslconvertError as error:
            print(f"{name}: {error.code}: {error}", file=sys.stderr)
            failed = True
    print(f"{len(record.rows)} rows in {options.out / 'peers.json'}, the table in {options.out / 'peers.md'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
