"""What each part of the fit is worth: parts changed one at a time, at as many rows, before any healing.

    OMP_NUM_THREADS=1 PYTHONPATH=benchmarks python benchmarks/ablations.py [--tasks digits] [--page docs/ablations.md]

Every 3x3 convolution of at least eight channels gets as many rows as it has channels. Judged on the test split, which
nothing was fitted to. The last variants take the same processor time each: healing end to end, block-wise
reconstruction, and half of both. Writes out/bench/ablations.json after every variant and keeps what it has of earlier
runs; `--page` writes the table of that file and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from block_wise import reconstruct
from fit_variants import Recipe, fitted
from peers.sites import spatial_sites
from peers.tasks import Task, load_task
from torch import Tensor, fx

from aslconvert.converter.cost.device import device_profile
from aslconvert.converter.export.write import write_program
from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.heal.distil import heal
from aslconvert.converter.heal.pool import Pool, build_pool, draw_samples
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.judge import Judge, metric_for
from aslconvert.converter.pipeline.subject import CALIBRATION_BATCH, Subject, open_subject
from aslconvert.converter.search.damage import site_damage
from aslconvert.converter.search.plan import candidates_of, plan_of, solve_plan

TASKS = ("demosaicker", "digits", "animals")
POOL = 384
"""Samples that healing and block-wise reconstruction see."""

BASE = "as the engine fits"
RECIPES = {
    BASE: Recipe(),
    "ridge 1e-6 always": Recipe(ridge="fixed"),
    "ridge by GCV always": Recipe(ridge="gcv"),
    "ridge by held-out batches": Recipe(ridge="held out"),
    "outputs weighted alike": Recipe(weighted=False),
    "shifts of whole pixels": Recipe(grid=1.0),
    "shifts of quarter pixels": Recipe(grid=0.25),
    "shifts up to two pixels": Recipe(reach=1),
    "sources in order": Recipe(in_order=True),
    "teacher's inputs": Recipe(student=False),
    "teacher's inputs, bias corrected": Recipe(student=False, correct_bias=True),
    "bias corrected": Recipe(correct_bias=True),
    "mean and variance matched": Recipe(match_variance=True),
    "shifts and weights refined": Recipe(refine_steps=100),
}
PLANNED = "rows by plan, as many multiply-adds"
HEALED, BLOCK_WISE, BOTH = "healed end to end", "block-wise", "half block-wise, half healed"
TRAINED = (HEALED, BLOCK_WISE, BOTH)
VARIANTS = (*RECIPES, PLANNED, *TRAINED)

Row = dict[str, Any]


class Ablation:
    """One task: its original, calibration batches and judge; ``rows`` gives what each variant scores."""

    def __init__(self, task: Task, folder: Path, *, seed: int, steps: int) -> None:
        self._task, self._seed, self._steps = task, seed, steps
        write_program(export_model(task.net, task.example), folder / "model.pt2")
        self._options = ConvertOptions(metric=task.metric, seed=seed, threads=1, heal_crop=task.crop)
        self._subject: Subject = open_subject(str(folder / "model.pt2"), data=str(task.data), options=self._options)
        self._sites: list[ConvSite] = spatial_sites(self._subject.sites)
        self._uniform = {site.name: site.in_channels for site in self._sites}
        count = sum(len(batch[0]) for batch in self._subject.calibration(self._options))
        calibrate = self._draw("calibrate", count, seed=seed)
        self._batches = list(zip(*(x.split(CALIBRATION_BATCH) for x in calibrate), strict=True))
        gm = self._subject.gm
        self._importance = output_importance(gm, self._sites, self._batches[:2], seed=seed)
        test = self._subject.data.split("test")
        self._judge = Judge(gm, test, metric=metric_for(test, task.metric), batch=None, seed=seed)
        self._heal_seconds: float | None = None
        self._base: fx.GraphModule | None = None
        self._pool: Pool | None = None

    def rows(self, wanted: Sequence[str]) -> Iterator[Row]:
        """A row of each variant of ``wanted``, in the order of ``VARIANTS``."""
        for name in VARIANTS:
            if name in wanted:
                started = time.process_time()
                gm, note = self._make(name)
                yield self._row(name, gm, time.process_time() - started, note)

    def _make(self, name: str) -> tuple[fx.GraphModule, str]:
        if name in RECIPES:
            return self._fit(RECIPES[name], self._uniform), ""
        if name == PLANNED:
            rows, kept = self._plan()
            return self._fit(Recipe(), rows), f"{kept} sites kept"
        gm = self._start()
        if name == HEALED:
            return gm, self._heal(gm, self._steps)
        seconds = self._time_to_heal()
        share, half = (1.0, 0) if name == BLOCK_WISE else (0.5, self._steps // 2)
        sites, pool = self._sites, self._samples()
        taken = reconstruct(gm, self._subject.gm, sites, pool, seconds=seconds * share, seed=self._seed)
        return gm, f"{taken} block steps" + (f", {self._heal(gm, half)}" if half else "")

    def _fit(self, recipe: Recipe, rows: dict[str, int]) -> fx.GraphModule:
        gm = self._subject.gm
        blocks = fitted(gm, self._sites, rows, self._batches, recipe, importance=self._importance)
        return replace_sites(gm, blocks)

    def _start(self) -> fx.GraphModule:
        if self._base is None:
            self._base = self._fit(RECIPES[BASE], self._uniform)
        return replace_sites(self._base, {})

    def _samples(self) -> Pool:
        if self._pool is None:
            self._pool = build_pool(self._subject.gm, self._draw("heal", POOL, seed=self._seed + 1))
        return self._pool

    def _draw(self, split: str, count: int, *, seed: int) -> tuple[Tensor, ...]:
        """As a conversion draws samples, but whole ones at random: in stored order those of few classes come first."""
        subset = self._subject.data.split(split)
        if self._options.heal_crop is not None:
            return draw_samples(subset, count, crop=self._options.heal_crop, seed=seed)
        order = torch.randperm(len(subset), generator=torch.Generator().manual_seed(seed))
        return subset.batch(order[:count].tolist()).inputs

    def _heal(self, gm: fx.GraphModule, steps: int) -> str:
        # The original's answers are part of the time, as they are of block-wise reconstruction's.
        started = time.process_time()
        heal(gm, self._samples(), seconds=math.inf, max_steps=steps, seed=self._seed)
        if steps == self._steps:
            self._heal_seconds = time.process_time() - started
        return f"{steps} steps"

    def _time_to_heal(self) -> float:
        if self._heal_seconds is None:
            self._heal(self._start(), self._steps)
        return self._heal_seconds or 0.0

    def _plan(self) -> tuple[dict[str, int], int]:
        """Rows by damage, with multiply-adds for latency: what is measured must not hang on this machine."""
        gm, sites = self._subject.gm, self._sites
        damage = site_damage(gm, sites, self._batches, importance=self._importance)
        per_row = {site.name: site.macs / site.exact_rows for site in sites}
        costs: dict[str, dict[int | None, float]] = {
            name: {None: per_row[name] * site.exact_rows, **{rows: per_row[name] * rows for rows in damage[name]}}
            for name, site in ((site.name, site) for site in sites)
        }
        budget = sum(per_row[name] * rows for name, rows in self._uniform.items())
        chosen = solve_plan(candidates_of(sites, costs, damage), budget)
        plan = plan_of(sites, chosen or {})
        rows = {name: count for name, count in plan.items() if count is not None}
        return rows, len(plan) - len(rows)

    def _row(self, name: str, gm: fx.GraphModule, seconds: float, note: str) -> Row:
        score, own = self._judge.score(gm), self._judge.original
        return {
            "task": self._task.name,
            "variant": name,
            "seed": self._seed,
            "metric": None if own is None else own.name,
            "unit": "" if own is None else own.unit,
            "original": None if own is None else own.value,
            "value": None if score.metric is None else score.metric.value,
            "loss": score.loss,
            "loss_ci": list(score.agreement.ci if score.change is None else score.change.ci),
            "relative_l2": score.agreement.relative_l2,
            "agreement": score.agreement.top1,
            "cpu_seconds": round(seconds, 1),
            "heal_steps": self._steps if name in TRAINED else 0,
            "note": note,
            "date": datetime.now(UTC).date().isoformat(),
        }


def page(rows: Sequence[Row]) -> str:
    """Markdown: of every variant, the loss and the relative error of the output on each task."""
    tasks = [task for task in TASKS if any(row["task"] == task for row in rows)]
    found = {(row["task"], row["variant"]): row for row in rows}
    head, units = [], []
    for task in tasks:
        first = next(row for row in rows if row["task"] == task)
        unit = first["unit"] or "points"
        head.append(f"{task}, {first['metric']} lost [{unit}] of {_shown(first, first['original'])} | error | s")
        units.append("---:|---:|---:")
    lines = [f"| variant | {' | '.join(head)} |", f"|---|{'|'.join(units)}|"]
    for name in VARIANTS:
        cells = []
        for task in tasks:
            row = found.get((task, name))
            cells.append(
                "| |"
                if row is None
                else f"{_shown(row, row['loss'])} | {row['relative_l2']:.4f} | {row['cpu_seconds']:g}"
            )
        if any(cell != "| |" for cell in cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(row: Row, value: float) -> str:
    return f"{value:.2f}" if row["unit"] else f"{100 * value:.2f}"


def run(
    tasks: Sequence[Task], wanted: Sequence[str], known: list[Row], *, seed: int, steps: int, save: Callable[[], None]
) -> None:
    """Add the rows that ``known`` lacks to it; ``save`` is called after each."""
    for task in tasks:
        there = {row["variant"] for row in known if row["task"] == task.name and row["seed"] == seed}
        missing = [name for name in wanted if name not in there]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for row in Ablation(task, Path(folder), seed=seed, steps=steps).rows(missing):
                known.append(row)
                print(f"{row['task']:12} {row['variant']:36} loss {row['loss']:8.4f} error {row['relative_l2']:.4f} "
                      f"{row['cpu_seconds']:6.1f} s {row['note']}", flush=True)  # fmt: skip
                save()


def main() -> None:
    """Runs what is missing, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=100, help="of healing; block-wise takes as much processor time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="networks that are trained here are trained for few steps")
    parser.add_argument("--out", type=Path, default=Path("out/bench/ablations.json"))
    parser.add_argument("--page", type=Path, help="write the table between this page's marks, and run nothing")
    options = parser.parse_args()
    known: list[Row] = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    if options.page:
        write_page(options.page, known)
        return
    torch.set_num_threads(1)

    def save() -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        device = {"cpu": device_profile(threads=1).cpu, "torch": torch.__version__}
        options.out.write_text(json.dumps({"device": device, "rows": known}, indent=2) + "\n")

    tasks = [load_task(name, quick=options.quick) for name in options.tasks]
    run(tasks, options.variants, known, seed=options.seed, steps=options.steps, save=save)
    print(page(known))


MARKS = "<!-- table -->\n", "<!-- end of table -->\n"


def write_page(path: Path, rows: Sequence[Row]) -> None:
    """Put the table between the marks of the page."""
    before, _, rest = path.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    path.write_text(f"{before}{MARKS[0]}{page(rows)}{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
