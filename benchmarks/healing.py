"""What the rate of healing, the average of the weights and a rate finder are worth, at equal steps.

    PYTHONPATH=benchmarks OMP_NUM_THREADS=1 .venv/bin/python benchmarks/healing.py --task digits --steps 400

Every site of a task's network gets the same rows a channel, is fitted, and healed from that one start at several rates.
A finder would try each rate for a few steps, on a schedule of their own, and take the one whose held-out loss is least.
Limits: one network a run, few seeds; the spread between seeds is the least that a difference must exceed.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch
from peers.context import Context, Settings, open_context
from peers.sites import spatial_sites
from peers.tasks import load_task
from torch import fx

from aslconvert.converter.fit.layerwise import fit_layerwise
from aslconvert.converter.heal.distil import heal
from aslconvert.converter.ir.graph import copy_graph
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.judge import Judge, metric_for

FINDER_SHARE = 0.05
"""Of the steps, that a finder may take for all its trials together."""


def fitted(context: Context, rows: float) -> fx.GraphModule:
    """Every spatial site at ``rows`` a channel."""
    subject = context.subject
    plan = {site.name: round(site.in_channels * rows) for site in spatial_sites(subject.sites)}
    fits = fit_layerwise(subject.gm, subject.sites, plan, context.batches, importance=context.importance())
    return replace_sites(subject.gm, {name: fit.block for name, fit in fits.items()})


def main() -> None:
    """Print one line a rate and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--rows", type=float, default=1.0, help="rows a channel")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=math.inf, help="instead of steps")
    parser.add_argument("--rates", default="guess,0.1,0.3,1,3", help="factors on the base rates")
    parser.add_argument("--seeds", default="0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    timed = math.isfinite(arguments.seconds)
    steps = None if timed else arguments.steps
    for seed in map(int, arguments.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(budget=arguments.seconds if timed else 600.0, steps=steps)
            context = open_context(load_task(arguments.task, quick=False), settings, seed=seed, folder=Path(folder))
            start = fitted(context, arguments.rows)
            test = context.subject.data.split("test")
            metric = metric_for(test, context.task.metric)
            judge = Judge(context.subject.gm, test, metric=metric, batch=None, seed=seed)
            print(f"{arguments.task} seed {seed}: fitted, loses {judge.score(start).loss:.4f}", flush=True)
            for name in arguments.rates.split(","):
                scale = None if name == "guess" else float(name)
                trial = max(int(FINDER_SHARE * arguments.steps / 3), 5)
                found = heal(
                    copy_graph(start), context.pool, seconds=math.inf, max_steps=trial, seed=seed, rate_scale=scale
                )
                gm = copy_graph(start)
                done = heal(gm, context.pool, seconds=arguments.seconds, max_steps=steps, seed=seed, rate_scale=scale)
                print(
                    f"  rate {name:>5}: held-out {done.start_loss:.4f} -> {done.best_loss:.4f} ({done.kept}, "
                    f"{done.steps} steps, {done.seconds:.0f} s), loses {judge.score(gm).loss:.4f}; "
                    f"after a trial of {trial} steps {found.best_loss:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
