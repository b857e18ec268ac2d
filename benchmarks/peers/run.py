"""Runs the methods that a task still lacks, heals their variants alike, and scores and times them together."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import fx

from aslconvert.converter.cost.counts import count
from aslconvert.converter.cost.latency import planning_clock, ratio
from aslconvert.converter.errors import InternalError, UserError
from aslconvert.converter.heal.distil import Healing, heal
from aslconvert.converter.pipeline.judge import Judge, metric_for
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.timing import scored_form
from peers.context import Context, Settings, open_context
from peers.methods import RUNNABLE, variants
from peers.methods.int8 import quantised, runs
from peers.methods.tensors import need_tensorly
from peers.tasks import Task
from peers.timing import ORIGINAL, Bench, fastest

CHECKPOINT = ".heal.pt"
Row = dict[str, Any]
Tell = Callable[[str], None]


@dataclass
class Made:
    """A variant ready to be measured: a graph, or an int8 file, how it was healed, and the plan if it is of one."""

    method: str
    point: str
    gm: fx.GraphModule | None = None
    file: bytes | None = None
    healing: Healing | None = None
    planned: Planned | None = None

    @property
    def key(self) -> str:
        """Its name among all that is measured together."""
        return f"{self.method} {self.point}"


def missing(rows: Iterable[Row], left_out: Iterable[Row], methods: Sequence[str], wanted: Row) -> list[str]:
    """The methods without a row, or a reason for having none, of this task, seed and budget."""
    known = {row["method"] for row in (*rows, *left_out) if all(row[key] == wanted[key] for key in wanted)}
    return [method for method in methods if method not in known]


def run_task(
    task: Task,
    methods: Sequence[str],
    settings: Settings,
    *,
    seed: int,
    work: Path,
    tell: Tell = print,
) -> tuple[list[Row], list[Row]]:
    """The rows of ``methods``, and what had to be left out and why.

    Healing leaves checkpoints below ``work``, so that an interrupted run goes on; see ``drop_checkpoints``.

    Raises:
        InfrastructureError: ``packages_missing``.
    """
    if {"tucker", "cp"} & set(methods):
        need_tensorly()
    context = open_context(task, settings, seed=seed, folder=folder_of(task, settings, seed=seed, work=work))
    left_out: list[Row] = []
    made: list[Made] = []
    base = {"task": task.name, "seed": seed, "budget": settings.label}
    for method in [name for name in RUNNABLE if name in methods]:
        try:
            for variant in _make(method, context, tell):
                made.append(variant)
        # A missing part is no finding: what needs it is not recorded as left out.
        except (UserError, InternalError) as error:
            tell(f"{task.name} {method}: left out: {error.message}")
            left_out.append({**base, "method": method, "code": error.code, "reason": error.message})
    if context.refusal is not None and "asl" in methods:
        left_out.append({**base, "method": "aslconvert convert", "code": "does_not_pay", "reason": context.refusal})
    rows, unavailable = _measured(context, made, base, tell)
    left_out += unavailable
    return rows, left_out


def folder_of(task: Task, settings: Settings, *, seed: int, work: Path) -> Path:
    """Where plans and checkpoints of a task, seed and budget are kept."""
    return work / re.sub(r"[^\w.]+", "-", f"{task.name} {seed} {settings.label}").strip("-")


def drop_checkpoints(folder: Path) -> None:
    """Remove what healing left, once its rows are written; plans stay for methods that are still to come."""
    # The one before the last as well.
    for path in folder.glob(f"*{CHECKPOINT}*"):
        path.unlink()


def forget(work: Path) -> None:
    """Remove plans and checkpoints of earlier runs."""
    shutil.rmtree(work, ignore_errors=True)


def _make(method: str, context: Context, tell: Tell) -> Iterable[Made]:
    task = context.task.name
    if method == "int8":
        for suffix, file in quantised(context, context.subject.gm):
            yield Made(method, f"original{suffix}", file=file)
        return
    for point, gm in variants(method, context):
        healing = heal(
            gm,
            context.pool,
            seconds=context.settings.budget if context.settings.steps is None else math.inf,
            max_steps=context.settings.steps,
            seed=context.options.seed,
            checkpoint=_checkpoint(context, method, point),
            keep_window=context.in_order,
            clock=time.process_time if context.settings.processor_time else time.monotonic,
        )
        tell(
            f"{task} {method} {point}: {healing.steps} steps, {healing.seconds:.0f} s, "
            f"loss {healing.first_loss:.4f} -> {healing.last_loss:.4f}"
        )
        yield Made(method, point, gm=gm, healing=healing, planned=context.planned(method, point))
        if method == "asl":
            for suffix, file in quantised(context, gm):
                yield Made("asl-int8", f"{point}{suffix}", file=file, healing=healing)


def _checkpoint(context: Context, method: str, point: str) -> Path:
    return context.folder / f"{method}-{point}{CHECKPOINT}"


def _measured(context: Context, made: Sequence[Made], base: Row, tell: Tell) -> tuple[list[Row], list[Row]]:
    subject, settings, seed = context.subject, context.settings, context.options.seed
    test = subject.data.split("test")
    judge = Judge(subject.gm, test, metric=metric_for(test, context.task.metric), batch=None, seed=seed)
    bench = Bench(subject.example, threads=settings.threads, compiled=settings.compile)
    try:
        bench.add_original(subject.original)
        for variant in made:
            if variant.gm is not None:
                bench.add(variant.key, variant.gm)
            elif variant.file is not None:
                bench.add_int8(variant.key, variant.file)
        tell(f"{context.task.name}: measuring {len(made)} variants beside the original")
        latency = bench.measure(
            rounds=settings.rounds,
            seed=seed,
            clock=planning_clock(settings.threads) if settings.processor_time else time.perf_counter_ns,
        )
        unavailable = dict(bench.unavailable)
    finally:
        bench.close()
    slowest, original = fastest(latency[ORIGINAL])
    own = judge.original
    rows = []
    left_out = [{**base, "method": "runtime", "code": name, "reason": why} for name, why in unavailable.items()]
    for variant in made:
        if variant.key not in latency:
            left_out.append({**base, "method": variant.method, "code": "no_runtime", "reason": "It runs nowhere."})
            continue
        runtime, quick = fastest(latency[variant.key])
        speedup = ratio(original, quick, seed=seed)
        if variant.gm is None and variant.file is None:
            raise ValueError(f"{variant.key} is neither a graph nor a file")
        form = (
            runs(context, variant.file or b"")
            if variant.gm is None
            else scored_form(variant.gm, latency[variant.key])[1]
        )
        score = judge.score(form)
        counts = None if variant.gm is None else count(variant.gm, subject.example)
        healing = variant.healing
        rows.append({
            **base,
            "method": variant.method,
            "point": variant.point,
            "metric": context.task.metric if own is None else own.name,
            "unit": "" if own is None else own.unit,
            "original": None if own is None else own.value,
            "value": None if score.metric is None else score.metric.value,
            "loss": score.loss,
            "loss_ci": list(score.agreement.ci if score.change is None else score.change.ci),
            "relative_l2": score.agreement.relative_l2,
            "speedup": speedup.value,
            "speedup_ci": [speedup.ci_low, speedup.ci_high],
            "latency_ms": quick.p50_ms,
            "latency_ci": [quick.ci_low, quick.ci_high],
            "runtime": runtime,
            "runtimes_ms": {name: value.p50_ms for name, value in latency[variant.key].items()},
            "original_ms": original.p50_ms,
            "original_runtime": slowest,
            "parameters": None if counts is None else counts.params,
            "multiply_adds": None if counts is None else counts.macs,
            "healing_seconds": 0.0 if healing is None else healing.seconds,
            "healing_steps": 0 if healing is None else healing.steps,
            "first_loss": None if healing is None else healing.first_loss,
            "last_loss": None if healing is None else healing.last_loss,
            "expected_speedup": None if variant.planned is None else variant.planned.expected,
            "expected_damage": None if variant.planned is None else variant.planned.damage,
        })  # fmt: skip
    return rows, left_out
