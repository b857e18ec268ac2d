"""`make bench-peers`, or `PYTHONPATH=benchmarks python -m peers`: structural compression methods at equal conditions.

Writes peers.json, peers.md and peers.svg to --out. Rows that peers.json has of the same task, method, seed and budget
are kept; an interrupted run goes on where it stopped. `--quick` is a whole run that takes few steps of everything.

Processes may run side by side with different tasks, or with different --out: `--join A B` then writes the rows of the
folders A and B to --out, and runs nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from pathlib import Path

import torch

from aslconvert.converter.errors import AslconvertError
from peers.context import Settings
from peers.methods import RUNNABLE
from peers.record import Record, join
from peers.run import drop_checkpoints, folder_of, forget, missing, run_task
from peers.tasks import NAMES, load_task

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
    parser.add_argument(
        "--processor-time", action="store_true", help="count seconds of the processor, not of the clock"
    )
    parser.add_argument("--speedups", nargs="+", type=float, default=[], help="what our plans aim at")
    parser.add_argument(
        "--points", type=int, help="variants of each other method at most, 1: the fastest; all by default"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="samples of every latency")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too, of everything")
    parser.add_argument("--quick", action="store_true", help="few steps, one point a method")
    parser.add_argument("--fresh", action="store_true", help="forget the rows and plans of earlier runs")
    parser.add_argument("--join", nargs="+", type=Path, metavar="DIR", help="write the rows of these runs to --out")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    return parser.parse_args(given)


def settings_of(options: argparse.Namespace) -> Settings:
    """What the command line asks for."""
    settings = Settings(
        budget=options.budget,
        steps=options.steps,
        processor_time=options.processor_time,
        speedups=tuple(options.speedups),
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


def main(given: list[str] | None = None) -> int:
    """Runs what is missing; the files are written after each task and seed. Exit code 1 when a task failed."""
    # Torch warns about its own use of its own tree specs when a graph is copied.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    options = arguments(given)
    if options.join:
        return _joined(options.join, options.out)
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


def _joined(folders: list[Path], out: Path) -> int:
    try:
        rows = join(folders, out)
    except AslconvertError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    print(f"{rows} rows in {out / 'peers.json'}, the table in {out / 'peers.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
