"""The pipeline from a model to its faster variants, their proof and their report."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from aslconvert.converter.cost.device import device_profile, usable_cores
from aslconvert.converter.errors import TargetNotReached, UsageError
from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.heal.pool import build_pool, draw_samples, pool_size
from aslconvert.converter.options import DEFAULT_ARTIFACTS, DEFAULT_BUDGET_SECONDS, PRUNE, ConvertOptions
from aslconvert.converter.passes.stages import Stages
from aslconvert.converter.pipeline import record
from aslconvert.converter.pipeline.artifacts import prove, write_report
from aslconvert.converter.pipeline.judge import AGREEMENT_NAME, DEFAULT_MAX_DROP, Judge, metric_for
from aslconvert.converter.pipeline.limits import check_limits
from aslconvert.converter.pipeline.measured import with_spread
from aslconvert.converter.pipeline.plan_file import identity_of, plan_bytes, read_plan
from aslconvert.converter.pipeline.planning import Planned, Survey, load_plans, make_plans, store_plans, survey
from aslconvert.converter.pipeline.pruned import pruned_plans
from aslconvert.converter.pipeline.state import State
from aslconvert.converter.pipeline.subject import Subject, open_subject
from aslconvert.converter.pipeline.timing import ORIGINAL, Timer, scored_form
from aslconvert.converter.pipeline.variants import Made, Workshop, focused
from aslconvert.converter.progress import Progress, SilentProgress
from aslconvert.converter.prune.channels import need_torch_pruning
from aslconvert.converter.report.schema import Report
from aslconvert.converter.search.frontier import Point, choose, dominated
from aslconvert.converter.threads import torch_threads

Batches = list[tuple[Tensor, ...]]

HEAL_PIXELS = 12 << 20
"""Input positions whose answers the original gives once, for all variants."""

LEAST_HEAL_SAMPLES = 256

QUICK_ROUNDS = 7


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
    if options.device != "cpu":
        raise UsageError("device", f"Conversion runs on the CPU here, not on {options.device}.", hint="--device cpu")
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
            # Checked before anything is built on it.
            folder = None if options.dry_run else options.dump_passes
            self.stages = Stages(self.subject.program, inputs=self.subject.example, folder=folder)
            self.stages.run(("prepare", "fold_batch_norm"), self.subject.original)
        self.decided = (
            None if options.plan is None else read_plan(options.plan, identity=identity_of(self.subject, options))
        )
        self.metric = metric_for(self.subject.data.split("test"), options.metric)
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
                found = survey(self.subject, batches, self.options, threads=self.threads, progress=self.progress)
                plans, found = self._new_plans(found, timer, fastest)
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
        stored = load_plans(state)
        if stored is None and self.decided is not None:
            stored = self.decided.plans, self.decided.survey
        if stored is not None:
            plans, found = stored
            sites = [site for site in self.subject.sites if site.name in found.damage]
            importance = output_importance(self.subject.gm, sites, batches[:2], seed=self.options.seed)
            return plans, dataclasses.replace(found, importance=importance)
        found = survey(self.subject, batches, self.options, threads=self.threads, progress=self.progress)
        plans, found = self._new_plans(found, timer, fastest)
        store_plans(state, plans, found)
        return plans, found

    def _new_plans(self, found: Survey, timer: Timer, fastest: tuple[str, float]) -> tuple[list[Planned], Survey]:
        runtime, original_ms = fastest
        plans: list[Planned] = []
        slow: TargetNotReached | None = None
        try:
            plans = make_plans(
                self.subject,
                found,
                timer,
                self.options,
                runtime=runtime,
                original_ms=original_ms,
                progress=self.progress,
            )
        except TargetNotReached as error:
            slow = error
        if PRUNE in self.options.allow:
            pruned, left_out = pruned_plans(
                self.subject, plans, timer, self.options, runtime=runtime, progress=self.progress
            )
            plans, found = [*plans, *pruned], dataclasses.replace(found, left_out=left_out)
        if slow is not None and not plans:
            raise slow
        return plans, found

    def _variants(
        self, state: State, batches: Batches, plans: list[Planned], found: Survey, started: float
    ) -> tuple[list[Made], Survey]:
        self.progress.stage("the original's answers")
        subject, options = self.subject, self.options
        heal_split = subject.data.split("heal")
        probe = draw_samples(heal_split, 1, crop=options.heal_crop, seed=options.seed)
        sample = probe if subject.fixed_batch is None else subject.example
        with torch.no_grad():
            limit = max(pool_size(sample, subject.gm(*sample)), subject.fixed_batch or 1)
        pixels = max((x.shape[2:].numel() for x in probe if x.dim() == 4), default=1)
        count = min(max(HEAL_PIXELS // pixels, LEAST_HEAL_SAMPLES), limit)
        inputs = draw_samples(heal_split, count, crop=options.heal_crop, seed=options.seed + 1)
        pool = build_pool(
            subject.gm,
            inputs,
            batch=subject.fixed_batch,
            on_batch=lambda done, total: self.progress.update(done, total, "samples"),
        )
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
        with self._timed("measure"):
            self.progress.stage("measure")
            for variant in made:
                timer.add_variant(variant.planned.id, variant.gm)
            focus = focused([variant.planned for variant in made], options)
            for variant in made:
                if variant.planned in focus:
                    timer.add_compiled(variant.planned.id, variant.gm)
            latency = timer.measure()
            fastest = min(value.p50_ms for value in latency[ORIGINAL].values())
            speedups = {
                v.planned.id: fastest / min(value.p50_ms for value in latency[v.planned.id].values()) for v in made
            }
            validate = self._judge_of("validate")
            forms = {v.planned.id: scored_form(v.gm, latency[v.planned.id]) for v in made}
            chosen_by = [
                Point(v.planned.id, speedups[v.planned.id], validate.score(forms[v.planned.id][1]).loss) for v in made
            ]
            min_speedup, max_drop = self._wish()
            chosen, self._met = choose(chosen_by, min_speedup=min_speedup, max_drop=max_drop)
            chosen = chosen if self.decided is None else self.decided.chosen
            test = self._judge_of("test")
            scores = {key: test.score(form) for key, (_, form) in forms.items()}
            worse = dominated([Point(key, speedups[key], score.loss) for key, score in scores.items()])
        best = next(v for v in made if v.planned.id == chosen)
        with self._timed("artifacts"):
            self.progress.stage("write and verify artifacts")
            packed = timer.packed_wins(latency[chosen]) if self.decided is None else self.decided.packed
            artifacts, left_out = prove(
                self.out, best, subject, options=options, batches=batches, stages=self.stages, judge=test, packed=packed
            )
        report = record.assemble(
            subject,
            device=device_profile(threads=self.threads),
            original=record.original_record(subject, test.original, latency[ORIGINAL]),
            sites=record.site_records(subject, best.planned.plan, best, found),
            variants=[
                record.variant_record(
                    v,
                    subject,
                    scores[v.planned.id],
                    latency[v.planned.id],
                    fastest,
                    dominated=v.planned.id in worse,
                    precision=forms[v.planned.id][0],
                )
                for v in made
            ],
            chosen=chosen,
            artifacts=artifacts,
            unavailable=timer.unavailable,
            timings=self.timings,
            seed=options.seed,
        )
        report = report.model_copy(update={"artifacts_left_out": left_out, "variants_left_out": found.left_out})
        report = with_spread(report, latency, pinned=timer.pinned, cached=found.cached, notes=found.notes)
        plan = plan_bytes(made, found, chosen=chosen, packed=packed, identity=identity_of(subject, options))
        write_report(self.out, report, plan)
        return report

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
        focus = (focused(plans, self.options) or plans[len(plans) // 2 :])[0]
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

    def _wish(self) -> tuple[float | None, float | None]:
        options = self.options
        if options.min_speedup is None and options.max_drop is None:
            name = self.metric.name if self.metric is not None else AGREEMENT_NAME
            return None, DEFAULT_MAX_DROP.get(name)
        return options.min_speedup, options.max_drop

    def _fingerprint(self) -> str:
        # The budget may differ: an interrupted run may be given more time, or less, for what is still to be healed.
        # So may what is written at the end.
        kept = dataclasses.replace(
            self.options,
            resume=False,
            dry_run=False,
            budget_seconds=DEFAULT_BUDGET_SECONDS,
            artifacts=DEFAULT_ARTIFACTS,
            dump_passes=None,
            cache=True,
        )
        return hashlib.sha256(f"{self.subject.fingerprint}|{kept}".encode()).hexdigest()

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.timings[stage] = time.monotonic() - begun


def tell_if_missed(report: Report, *, min_speedup: float | None, max_drop: float | None, met: bool, out: Path) -> None:
    """Raise TargetNotReached when the chosen variant misses the wish; ``met``: on the validate split it did not."""
    variant = report.chosen_variant
    if variant is None:
        return
    if min_speedup is not None and variant.best_speedup < min_speedup:
        raise TargetNotReached(
            "speedup_not_reached",
            f"No variant is {min_speedup:g} times as fast as the original; the fastest, {variant.id}, is "
            f"{variant.best_speedup:.2f} times as fast. It was written to '{out}'.",
        )
    loss = variant.loss.value if variant.loss is not None else variant.agreement.relative_l2
    if max_drop is not None and loss > max_drop:
        told = (
            f"{variant.id} was chosen on the validate split, but loses {loss:.4g} on the test split, more than "
            f"{max_drop:g}."
            if met
            else f"No variant loses at most {max_drop:g}; the best, {variant.id}, loses {loss:.4g}."
        )
        raise TargetNotReached(
            "accuracy_not_reached",
            f"{told} It was written to '{out}'.",
            hint="Give more time with --budget, or accept a larger --max-drop.",
        )
