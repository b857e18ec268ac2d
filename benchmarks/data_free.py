"""What is lost where inputs are made up from batch-norm statistics: the same network fitted and healed on both kinds.

    PYTHONPATH=benchmarks OMP_NUM_THREADS=1 .venv/bin/python benchmarks/data_free.py --task animals --steps 400

Judged on real, unseen samples. The network must have batch norms; every spatial site gets the same rows a channel.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from peers.context import Context, Settings, open_context
from peers.sites import spatial_sites
from peers.tasks import load_task
from torch import Tensor, fx

from aslconvert.converter.data.synthetic import mismatch, synthetic_dataset
from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.fit.layerwise import fit_layerwise
from aslconvert.converter.heal.distil import heal
from aslconvert.converter.heal.pool import Pool, build_pool
from aslconvert.converter.passes.prepare import prepare
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.judge import Judge, metric_for


def fitted(context: Context, batches: list[tuple[Tensor, ...]], rows: float) -> fx.GraphModule:
    """Every spatial site at ``rows`` a channel, fitted on ``batches``."""
    subject = context.subject
    plan = {site.name: round(site.in_channels * rows) for site in spatial_sites(subject.sites)}
    importance = output_importance(subject.gm, subject.sites, batches[:2], seed=context.options.seed)
    fits = fit_layerwise(subject.gm, subject.sites, plan, batches, importance=importance)
    return replace_sites(subject.gm, {name: fit.block for name, fit in fits.items()})


def made_up(context: Context) -> tuple[list[tuple[Tensor, ...]], Pool]:
    """Calibration batches and a healing pool without data."""
    subject, started = context.subject, time.monotonic()
    whole = prepare(subject.original)
    made = synthetic_dataset(whole, subject.specs, size=None, seed=context.options.seed)
    print(f"  {len(made)} inputs made up in {time.monotonic() - started:.0f} s", flush=True)
    told = [
        f"{kind} {mismatch(whole, inputs):.3f}"
        for kind, inputs in (
            ("made up", made.split("heal").batch(range(64)).inputs),
            ("real", subject.data.split("heal").batch(range(64)).inputs),
            ("noise", [torch.randn(64, *x.shape[1:]) for x in subject.example]),
        )
    ]
    print(f"  mismatch of the statistics: {', '.join(told)}", flush=True)
    heal_split = made.split("heal")
    pool = build_pool(subject.gm, heal_split.batch(range(len(heal_split))).inputs)
    return [batch.inputs for batch in made.split("calibrate").batches(16)], pool


def main() -> None:
    """Print the loss on real samples, before and after healing, with data and without."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="animals")
    parser.add_argument("--rows", default="1,2", help="rows a channel")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(budget=600.0, steps=arguments.steps)
        task = load_task(arguments.task, quick=False)
        context = open_context(task, settings, seed=arguments.seed, folder=Path(folder))
        test = context.subject.data.split("test")
        judge = Judge(context.subject.gm, test, metric=metric_for(test, task.metric), batch=None, seed=arguments.seed)
        print(f"{task.name}, {task.note}: {judge.original}", flush=True)
        sources = {"with data": (context.batches, context.pool), "without": made_up(context)}
        for rows in map(float, arguments.rows.split(",")):
            for name, (batches, pool) in sources.items():
                gm = fitted(context, batches, rows)
                before = judge.score(gm).loss
                done = heal(gm, pool, seconds=600.0, max_steps=arguments.steps, seed=arguments.seed)
                print(
                    f"  K={rows:g}C {name}: loses {before:.4f} fitted, {judge.score(gm).loss:.4f} healed "
                    f"({done.kept}, {done.steps} steps, {done.seconds:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
