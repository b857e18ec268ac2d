"""The pipeline from a model to its faster variants, their proof and their report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from aslconvert.converter.cost.device import device_profile, usable_cores
from aslconvert.converter.data.synthetic import NO_DATA, WARNING
from aslconvert.converter.errors import TargetNotReached, UsageError
from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.heal.device import healing_device
from aslconvert.converter.heal.team import require_devices
from aslconvert.converter.options import INT8, PRUNE, ConvertOptions
from aslconvert.converter.passes.stages import Stages
from aslconvert.converter.pipeline import record
from aslconvert.converter.pipeline.artifacts import prove, with_int8, write_report
from aslconvert.converter.pipeline.healing_pool import healing_pool, task_of
from aslconvert.converter.pipeline.judge import AGREEMENT_NAME, DEFAULT_MAX_DROP, Judge, metric_for
from aslconvert.converter.pipeline.limits import check_limits
from aslconvert.converter.pipeline.measured import with_spread
from aslconvert.converter.pipeline.plan_file import identity_of, plan_bytes, read_plan
from aslconvert.converter.pipeline.plan_search import QUICK_ROUNDS
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.planning import find_plans, load_plans, store_plans
from aslconvert.converter.pipeline.pruned import pruned_plans
from aslconvert.converter.pipeline.quantised import Quantised, original_made, quantised_variants
from aslconvert.converter.pipeline.selection import Wish, select, tell_if_missed
from aslconvert.converter.pipeline.state import State, fingerprint_of
from aslconvert.converter.pipeline.subject import Subject, open_subject
from aslconvert.converter.pipeline.survey import Survey
from aslconvert.converter.pipeline.timing import ORIGINAL, Timer
from aslconvert.converter.pipeline.variants import Made, Workshop, focused
from aslconvert.converter.progress import Progress, SilentProgress
from aslconvert.converter.prune.channels import need_torch_pruning
from aslconvert.converter.report.schema import Report
from aslconvert.converter.threads import torch_threads

Batches = list[tuple[Tensor, ...]]


def convert(model: str, *, data: str, out: Path, options: ConvertOptions, progress: Progress | None = None) -> Report:
    """Convert ``model`` with ``data`` and write the chosen variant, ``report.json`` and ``report.html`` to ``out``.

    Frontier points are chosen on the validate split and reported on the test split.

    Raises:
        ModelRefused, UsageError, NothingToConvert: before anything is written.
        InfrastructureError: ``torch_pruning_missing``, where pruning is allowed; likewise.
        TargetNotReached: after the best that was found is written; or ``does_not_pay`` or ``limits_not_reached``, with
            nothing written.
        VerificationFailed: an artifact does not reproduce the chosen variant.
    """
    progress = progress or SilentProgress()
    if PRUNE in options.allow:
        need_torch_pruning()
    require_devices(options.processes, healing_device(options.device))
    if healing_device(options.device).type == "cuda":
        progress.note(f"Variants are healed on {torch.cuda.get_device_name()}; latency is measured on the CPU.")
    elif options.device == "auto" and torch.cuda.is_available():
        progress.note("There is a GPU, but the kernels were built without CUDA: variants are healed on the CPU.")
    if options.processes > 1:
        progress.note(f"Variants are healed in {options.processes} processes.")
    blocking = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None and not options.dry_run:
        raise UsageError("out", f"'{blocking}' is a file: nothing can be written into '{out}'.", hint="Name a folder.")
    # Fitting and healing take every core; ``threads`` is what latency is measured with.
    with torch_threads(usable_cores()):
        return _Conversion(model, data=data, out=out, options=options, progress=progress).run()


class _Conversion:
    def __init__(self, model: str, *, data: str, out: Path, options: ConvertOptions, progress: Progress) -> None:
        self.out = out
        self.options = options
        self.progress = progress
        self.timings: dict[str, float] = {}
        self._met = False
        self.threads = options.threads or usable_cores()
        with self._timed("open"):
            progress.stage("open model and data")
            self.subject: Subject = open_subject(model, data=data, options=options)
            if data == NO_DATA:
                progress.note(WARNING)
            # Checked before anything is built on it.
            folder = None if options.dry_run else options.dump_passes
            self.stages = Stages(self.subject.program, inputs=self.subject.example, folder=folder)
            self.stages.run(("prepare", "fold_batch_norm"), self.subject.original)
        _check_heal_batch(self.subject.fixed_batch, options)
        self.decided = (
            None if options.plan is None else read_plan(options.plan, identity=identity_of(self.subject, options))
        )
        self.metric = metric_for(self.subject.data.split("test"), options.metric)
        if options.task_loss:
            task_of(self.metric)
        if self.metric is not None and self.metric.name not in DEFAULT_MAX_DROP and self._wish() == (None, None):
            raise UsageError(
                "metric",
                f"How much of {self.metric.name} may be lost is not known.",
                hint="Give --max-drop or --min-speedup with a metric of your own.",
            )

    def run(self) -> Report:
        if PRUNE not in self.options.allow:
            check_limits(self.subject, self.options)
        timer = Timer(self.subject.example, threads=self.threads, seed=self.options.seed, int16=self.options.int16)
        try:
            with self._timed("original"):
                self.progress.stage("time the original")
                timer.add_original(self.subject.original)
                fastest = timer.fastest_original(rounds=QUICK_ROUNDS)
            started = time.monotonic()
            batches = self.subject.calibration(self.options)
            if self.options.dry_run:
                plans, found = self._new_plans(batches, timer, fastest)
                return self._dry_report(plans, found, timer)
            state = State(self.out, fingerprint=self._fingerprint(), resume=self.options.resume)
            try:
                with self._timed("search"):
                    plans, found = self._plans(state, batches, timer, fastest)
            except TargetNotReached:
                state.remove()
                raise
            with self._timed("fit and heal"):
                made, found = self._variants(state, batches, plans, found, started)
            report = self._judge(made, found, timer, batches)
            state.remove()
        finally:
            timer.close()
        min_speedup, max_drop = self._wish()
        tell_if_missed(report, min_speedup=min_speedup, max_drop=max_drop, met=self._met, out=self.out)
        return report

    def _plans(
        self, state: State, batches: Batches, timer: Timer, fastest: tuple[str, float]
    ) -> tuple[list[Planned], Survey]:
        stored = load_plans(state, device=device_profile(threads=self.threads))
        if stored is None and self.decided is not None:
            stored = self.decided.plans, self.decided.survey
        if stored is not None:
            plans, found = stored
            sites = [site for site in self.subject.sites if site.name in found.damage]
            importance = output_importance(self.subject.gm, sites, batches[:2], seed=self.options.seed)
            return plans, dataclasses.replace(found, importance=importance)
        plans, found = self._new_plans(batches, timer, fastest)
        store_plans(state, plans, found, device=device_profile(threads=self.threads))
        return plans, found

    def _new_plans(self, batches: Batches, timer: Timer, fastest: tuple[str, float]) -> tuple[list[Planned], Survey]:
        found = find_plans(
            self.subject,
            batches,
            timer,
            self.options,
            fastest=fastest,
            threads=self.threads,
            progress=self.progress,
        )
        plans, surveyed = found.plans, found.survey
        if PRUNE in self.options.allow:
            pruned, left_out = pruned_plans(
                self.subject,
                plans,
                timer,
                self.options,
                runtime=fastest[0],
                progress=self.progress,
                style=found.style,
            )
            plans, surveyed = [*plans, *pruned], dataclasses.replace(surveyed, left_out=left_out)
        # Without a plan that pays, the original in 8 bits is still to be had.
        if found.refusal is not None and not plans and INT8 not in self.options.allow:
            raise found.refusal
        return plans, surveyed

    def _variants(
        self, state: State, batches: Batches, plans: list[Planned], found: Survey, started: float
    ) -> tuple[list[Made], Survey]:
        if not plans:
            return [], found
        subject, options = self.subject, self.options
        pool = healing_pool(subject, options, metric=self.metric, progress=self.progress)
        workshop = Workshop(
            subject,
            batches,
            pool,
            state,
            options,
            deadline=started + options.budget_seconds,
            progress=self.progress,
            steps=None if self.decided is None else self.decided.steps,
        )
        made = workshop.make_all(plans, found.importance)
        return made, dataclasses.replace(found, left_out={**found.left_out, **workshop.left_out})

    def _judge(self, made: list[Made], found: Survey, timer: Timer, batches: Batches) -> Report:
        subject, options = self.subject, self.options
        quantised, found = self._quantised(made, found, batches)
        with self._timed("measure"):
            self.progress.stage("measure")
            test = self._judge_of("test")
            selection = select(
                made,
                quantised,
                timer,
                options,
                wish=self._wish(),
                validate=lambda: self._judge_of("validate"),
                test=test,
                decided=None if self.decided is None else self.decided.chosen,
            )
        latency, scores, chosen = selection.latency, selection.scores, selection.chosen
        quantised, self._met = list(selection.quantised), selection.met
        rounded = next((item for item in quantised if item.id == chosen), None)
        best = rounded.made if rounded is not None else next(v for v in made if v.planned.id == chosen)
        # Of a chosen variant in float the file in 8 bits is the one that was found here too, where it is asked for.
        beside = rounded or next((item for item in quantised if item.made is best), None)
        with self._timed("artifacts"):
            self.progress.stage("write and verify artifacts")
            packed = timer.packed_wins(latency[best.planned.id]) if self.decided is None else self.decided.packed
            artifacts, left_out = prove(
                self.out,
                best,
                subject,
                options=options if rounded is None else with_int8(options),
                batches=batches,
                stages=self.stages,
                judge=test,
                packed=packed,
                int8=None if beside is None else beside.data,
                int8_score=None if beside is None else scores[beside.id],
            )
        report = record.assemble(
            subject,
            device=device_profile(threads=self.threads),
            original=record.original_record(subject, test.original, latency[ORIGINAL]),
            sites=record.site_records(subject, best.planned.plan, best, found, int8=rounded is not None),
            variants=[
                record.variant_record(
                    v,
                    subject,
                    scores[v.planned.id],
                    latency[v.planned.id],
                    selection.fastest,
                    dominated=v.planned.id in selection.worse,
                    precision=selection.precisions[v.planned.id],
                )
                for v in made
            ]
            + [
                record.quantised_record(
                    item,
                    subject,
                    scores[item.id],
                    latency[item.id],
                    selection.fastest,
                    dominated=item.id in selection.worse,
                )
                for item in quantised
            ],
            chosen=chosen,
            artifacts=artifacts,
            unavailable=timer.unavailable,
            timings=self.timings,
            seed=options.seed,
        )
        report = report.model_copy(update={"artifacts_left_out": left_out, "variants_left_out": found.left_out})
        report = with_spread(report, latency, pinned=timer.pinned, cached=found.cached, notes=found.notes)
        plan = plan_bytes(
            made, found, chosen=chosen, packed=packed, identity=identity_of(subject, options), quantised=quantised
        )
        write_report(self.out, report, plan)
        return report

    def _quantised(self, made: list[Made], found: Survey, batches: Batches) -> tuple[list[Quantised], Survey]:
        if INT8 not in self.options.allow:
            return [], found
        with self._timed("quantise"):
            self.progress.stage("quantise")
            quantised, left_out = quantised_variants(
                made,
                self.subject,
                batches,
                self.options,
                self.progress,
                decided=None if self.decided is None else self.decided.int8,
            )
        return quantised, dataclasses.replace(found, left_out={**found.left_out, **left_out})

    def _judge_of(self, split: str) -> Judge:
        return Judge(
            self.subject.gm,
            self.subject.data.split(split),
            metric=self.metric,
            batch=self.subject.fixed_batch,
            seed=self.options.seed,
        )

    def _dry_report(self, plans: list[Planned], found: Survey, timer: Timer) -> Report:
        test = self._judge_of("test")
        middle = plans[len(plans) // 2 :] or [original_made(self.subject).planned]
        focus = (focused(plans, self.options) or middle)[0]
        for planned in plans:
            self.progress.note(f"{planned.id}: {planned.expected:.2f} times as fast, before healing")
        latency = timer.measure(rounds=QUICK_ROUNDS)
        report = record.assemble(
            self.subject,
            device=device_profile(threads=self.threads),
            original=record.original_record(self.subject, test.original, latency[ORIGINAL]),
            sites=record.site_records(self.subject, focus.plan, None, found),
            variants=[],
            chosen=None,
            artifacts=[],
            unavailable=timer.unavailable,
            timings=self.timings,
            seed=self.options.seed,
        )
        report = report.model_copy(update={"variants_left_out": found.left_out})
        return with_spread(report, latency, pinned=timer.pinned, cached=found.cached, notes=found.notes)

    def _wish(self) -> Wish:
        options = self.options
        if options.min_speedup is None and options.max_drop is None:
            name = self.metric.name if self.metric is not None else AGREEMENT_NAME
            return None, DEFAULT_MAX_DROP.get(name)
        return options.min_speedup, options.max_drop

    def _fingerprint(self) -> str:
        return fingerprint_of(self.subject.fingerprint, self.options, fixed_batch=self.subject.fixed_batch)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.timings[stage] = time.monotonic() - begun


def _check_heal_batch(fixed: int | None, options: ConvertOptions) -> None:
    asked = (options.heal_batch or fixed) != fixed or options.accumulate > 1
    if fixed is not None and asked:
        raise UsageError(
            "heal_batch",
            f"The model takes batches of {fixed} only: a step of healing cannot be of another size or in pieces.",
            hint="Leave --heal-batch and --accumulate away, or export the model with a dynamic batch.",
        )
