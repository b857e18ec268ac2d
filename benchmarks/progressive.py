"""Whether converting a network in stages, each healed before the next is fitted, beats converting it at once.

    PYTHONPATH=benchmarks OMP_NUM_THREADS=1 .venv/bin/python benchmarks/progressive.py --task digits --seeds 0,1

Least sensitive sites first, by the error of the output when one alone is rewritten. Both ways take equally many steps
in all; a stage's steps follow a schedule of their own, and its sites are fitted on what was healed so far. Limits: one
network a run, the same rows a channel everywhere, two seeds by default.
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

from aslconvert.converter.data.metrics import flatten
from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.fit.layerwise import fit_layerwise
from aslconvert.converter.heal.distil import heal
from aslconvert.converter.ir.graph import copy_graph, find_sites
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.judge import Judge, metric_for

EARLY_SHARE = 0.4
"""Of the steps, for all stages but the last."""


def converted(context: Context, gm: fx.GraphModule, rows: dict[str, int]) -> fx.GraphModule:
    """``gm`` with ``rows`` of its sites rewritten, fitted to what ``gm`` itself gives."""
    sites = [site for site in find_sites(gm)[0] if site.name in rows]
    importance = output_importance(gm, sites, context.batches[:2], seed=context.options.seed)
    fits = fit_layerwise(gm, sites, rows, context.batches, importance=importance)
    return replace_sites(gm, {name: fit.block for name, fit in fits.items()})


def by_damage(context: Context, rows: dict[str, int]) -> list[str]:
    """The sites, the least damaging first."""
    gm, batch = context.subject.gm, context.batches[0]
    damage = {}
    with torch.no_grad():
        wanted = flatten(gm(*batch))[0]
        for name, count in rows.items():
            given = flatten(converted(context, copy_graph(gm), {name: count})(*batch))[0]
            damage[name] = float((given - wanted).norm())
    return sorted(rows, key=lambda name: damage[name])


def main() -> None:
    """Print the held-out loss and the loss of the metric for both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--rows", type=float, default=1.0, help="rows a channel")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--seeds", default="0,1")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in map(int, arguments.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(budget=600.0, steps=arguments.steps)
            context = open_context(load_task(arguments.task, quick=False), settings, seed=seed, folder=Path(folder))
        subject = context.subject
        rows = {site.name: round(site.in_channels * arguments.rows) for site in spatial_sites(subject.sites)}
        order = by_damage(context, rows)
        test = subject.data.split("test")
        judge = Judge(subject.gm, test, metric=metric_for(test, context.task.metric), batch=None, seed=seed)
        for stages in (1, arguments.stages):
            gm = copy_graph(subject.gm)
            size = math.ceil(len(order) / stages)
            groups = [order[start : start + size] for start in range(0, len(order), size)]
            early = int(EARLY_SHARE * arguments.steps / max(len(groups) - 1, 1)) if len(groups) > 1 else 0
            for number, group in enumerate(groups):
                last = number + 1 == len(groups)
                count = arguments.steps - early * (len(groups) - 1) if last else early
                gm = converted(context, gm, {name: rows[name] for name in group})
                done = heal(gm, context.pool, seconds=math.inf, max_steps=count, seed=seed)
            print(
                f"{arguments.task} seed {seed}, {len(groups)} stages: held-out loss {done.best_loss:.4f} "
                f"({done.kept}), loses {judge.score(gm).loss:.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
