"""What all methods share in one run of a task: the original, the calibration set, the healing pool and the plans."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from aslconvert.converter.data.dataset import Subset
from aslconvert.converter.data.metrics import METRICS
from aslconvert.converter.export.write import write_program
from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.heal.pool import Pool
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.healing_pool import healing_pool
from aslconvert.converter.pipeline.plan_search import QUICK_ROUNDS
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.planning import find_plans
from aslconvert.converter.pipeline.pruned import pruned_plans
from aslconvert.converter.pipeline.style import find_style
from aslconvert.converter.pipeline.subject import Subject, open_subject
from aslconvert.converter.pipeline.timing import Timer
from aslconvert.converter.progress import SilentProgress
from peers.sites import spatial_sites
from peers.tasks.task import Task

UNIFORM_ROWS = (1.0, 2.0)
"""Rows a channel, where the conversion has no plan of its own."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is made: ``budget`` seconds of healing a variant, or ``steps`` instead where given.

    ``processor_time``: seconds of this process on its cores, so that runs side by side heal as much as alone; on one
    thread latencies are such too.
    ``speedups``: those that our plans aim at, the frontier of a conversion where there are none.
    """

    budget: float
    processor_time: bool = False
    speedups: tuple[float, ...] = ()
    steps: int | None = None
    points: int | None = None
    """Variants of each other method at most, and of ours where ``quick``; None takes all."""
    threads: int = 1
    rounds: int = 15
    compile: bool = False
    quick: bool = False

    @property
    def label(self) -> str:
        """The budget as rows carry it: what is healed differently is another row."""
        seconds = f"{self.budget:g} processor s" if self.processor_time else f"{self.budget:g} s"
        base = seconds if self.steps is None else f"{self.steps} steps"
        return f"{base} (quick)" if self.quick else base


@dataclass
class Context:
    """One task and seed. ``batches`` calibrate every method, ``pool`` heals every one."""

    task: Task
    settings: Settings
    options: ConvertOptions
    subject: Subject
    batches: list[tuple[Tensor, ...]]
    pool: Pool
    folder: Path

    @property
    def calibrate(self) -> Subset:
        """The calibration split with its labels or targets."""
        return self.subject.data.split("calibrate")

    def plans(self) -> list[Planned]:
        """Our own plans along the frontier; found once, since they are timed and would differ the next time.

        Where the conversion finds that none pays, it would stop. Here it goes on with the same rows a channel at every
        site, so that there is something to compare; ``refusal`` then says why.
        """
        path = self.folder / "plans.json"
        if path.is_file():
            return [Planned(**record) for record in json.loads(path.read_text())]
        with self._timer() as timer:
            found = find_plans(
                self.subject,
                self.batches,
                timer,
                self.options,
                fastest=timer.fastest_original(rounds=QUICK_ROUNDS),
                threads=self.settings.threads,
                progress=SilentProgress(),
                aims=self.settings.speedups or None,
            )
        plans = found.plans
        if found.refusal is not None:
            self._refused.write_text(found.refusal.message)
            plans = self._uniform()
        plans = sorted(plans, key=lambda planned: planned.target)
        path.write_text(json.dumps([asdict(planned) for planned in plans]))
        return plans

    def pruned_plans(self) -> list[Planned]:
        """What `convert --allow prune` adds to ``plans``: likewise found once."""
        path = self.folder / "pruned.json"
        if path.is_file():
            return [Planned(**record) for record in json.loads(path.read_text())]
        plans = [] if self.refusal is not None else self.plans()
        with self._timer() as timer:
            found, _ = pruned_plans(
                self.subject,
                plans,
                timer,
                self.options,
                runtime=timer.fastest_original(rounds=QUICK_ROUNDS)[0],
                progress=SilentProgress(),
                style=find_style(self.subject, timer, seed=self.options.seed),
                aims=self.settings.speedups or None,
            )
        path.write_text(json.dumps([asdict(planned) for planned in found]))
        return found

    def planned(self, method: str, point: str) -> Planned | None:
        """The plan of ours that a point was made of, with what was predicted of it."""
        plans = {"asl": self.plans, "asl-prune": self.pruned_plans}.get(method, list)()
        return next((planned for planned in plans if planned.id == point), None)

    @contextmanager
    def _timer(self) -> Iterator[Timer]:
        timer = Timer(self.subject.example, threads=self.settings.threads, seed=self.options.seed)
        if not self.settings.compile:
            timer.unavailable["compile"] = "not asked for"
        try:
            timer.add_original(self.subject.original)
            yield timer
        finally:
            timer.close()

    @property
    def refusal(self) -> str | None:
        """Why the conversion would have stopped, once ``plans`` were sought; None where it would not."""
        return self._refused.read_text() if self._refused.is_file() else None

    @property
    def _refused(self) -> Path:
        return self.folder / "refused.txt"

    @property
    def in_order(self) -> bool:
        """Whether our plans, once they were sought, are meant for an ONNX runtime."""
        path = self.folder / "plans.json"
        return path.is_file() and any(record["in_order"] for record in json.loads(path.read_text()))

    def _uniform(self) -> list[Planned]:
        chosen = {site.name: site for site in spatial_sites(self.subject.sites)}
        return [
            Planned(
                id=f"K={share:g}C",
                plan={
                    site.name: round(site.in_channels * share) if site.name in chosen else None
                    for site in self.subject.sites
                },
                target=1 / share,
                expected=1.0,
            )
            for share in UNIFORM_ROWS
        ]

    def importance(self) -> Mapping[str, Tensor]:
        """What our own fit weighs the outputs of each site by."""
        return output_importance(self.subject.gm, self.subject.sites, self.batches[:2], seed=self.options.seed)


def open_context(task: Task, settings: Settings, *, seed: int, folder: Path) -> Context:
    """Export the network, open its data and let the original answer the healing pool, as a conversion does.

    Raises:
        ModelRefused, UsageError, NothingToConvert: as of a conversion.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.pt2"
    write_program(export_model(task.net, task.example), model)
    options = ConvertOptions(
        metric=task.metric,
        budget_seconds=settings.budget,
        seed=seed,
        threads=settings.threads,
        heal_crop=task.crop,
        heal_steps=settings.steps,
    )
    subject = open_subject(str(model), data=str(task.data), options=options)
    return Context(
        task=task,
        settings=settings,
        options=options,
        subject=subject,
        batches=subject.calibration(options),
        pool=healing_pool(subject, options, metric=METRICS.get(task.metric), progress=SilentProgress()),
        folder=folder,
    )
