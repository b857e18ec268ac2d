"""What each candidate of each site costs and damages, measured before anything is planned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from aslconvert.converter.cost.cache import device_fingerprint, open_cache
from aslconvert.converter.cost.latency import planning_clock
from aslconvert.converter.cost.pinning import pinned
from aslconvert.converter.fit.importance import output_importance
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.style import FUSED_STYLE, Style
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.progress import Progress
from aslconvert.converter.search.costs import Costs, SiteCosts, site_costs
from aslconvert.converter.search.damage import Damage, site_damage
from aslconvert.converter.threads import torch_threads
from aslconvert.kernels import has_int16


@dataclass(frozen=True)
class Survey:
    """Measured cost and damage of every site's candidates, and the importance of each site's outputs.

    ``kept`` says of each site that the gate keeps why; it has no damage, as no plan converts it. ``left_out`` says why
    of each pruned variant that was allowed and cannot be had. ``cached`` counts the sites whose latencies are of an
    earlier run, ``notes`` tell of that.
    """

    costs: dict[str, Costs]
    kept: dict[str, str]
    damage: dict[str, Damage]
    importance: dict[str, Tensor]
    left_out: dict[str, str] = field(default_factory=dict)
    cached: int = 0
    notes: tuple[str, ...] = ()


def survey(
    subject: Subject,
    batches: Sequence[tuple[Tensor, ...]],
    options: ConvertOptions,
    *,
    threads: int,
    progress: Progress,
    style: Style = FUSED_STYLE,
    probed_share: float = math.inf,
) -> Survey:
    """Measure what each candidate of each site costs and damages; ``probed_share``: as of ``site_damage``."""
    measured = measured_costs(subject, options, threads=threads, progress=progress, style=style)
    progress.stage("damage of each site")
    open_sites = [site for site in subject.sites if site.name not in measured.kept]
    importance = output_importance(subject.gm, open_sites, batches[:2], seed=options.seed)
    damage = site_damage(
        subject.gm,
        open_sites,
        batches,
        importance=importance,
        probed_share=probed_share,
        in_order=style.in_order,
        on_site=lambda _, done, total: progress.update(done, total, "sites"),
    )
    return Survey(
        costs=measured.costs,
        kept=measured.kept,
        damage=damage,
        importance=importance,
        cached=measured.cached,
        notes=measured.notes,
    )


def measured_costs(
    subject: Subject,
    options: ConvertOptions,
    *,
    threads: int,
    progress: Progress,
    style: Style = FUSED_STYLE,
) -> SiteCosts:
    """What each candidate of each site takes, from this device's cache where the options allow it."""
    progress.stage("cost of each site")
    int16 = options.int16 and has_int16()
    cache = open_cache(device_fingerprint(threads=threads, int16=int16)) if options.cache else None
    with torch_threads(threads), pinned(threads):
        found = site_costs(
            subject.gm,
            subject.sites,
            subject.example,
            seed=options.seed,
            int16=int16,
            cache=cache,
            files=style.runner(threads=threads),
            clock=planning_clock(threads),
        )
    for note in found.notes:
        progress.note(note)
    return found


def survey_record(found: Survey) -> dict[str, Any]:
    """A survey as JSON, without the importance, which is quick to find again."""
    return {
        "costs": {name: _pairs(costs) for name, costs in found.costs.items()},
        "kept": found.kept,
        "damage": {name: _pairs(damage) for name, damage in found.damage.items()},
        "left_out": found.left_out,
        "cached": found.cached,
        "notes": found.notes,
    }


def read_survey(record: Mapping[str, Any]) -> Survey:
    """What ``survey_record`` gave."""
    costs: dict[str, Costs] = {name: dict(map(tuple, pairs)) for name, pairs in record["costs"].items()}
    damage: dict[str, Damage] = {name: dict(map(tuple, pairs)) for name, pairs in record["damage"].items()}
    return Survey(
        costs=costs,
        kept=dict(record["kept"]),
        damage=damage,
        importance={},
        left_out=dict(record.get("left_out", {})),
        cached=int(record.get("cached", 0)),
        notes=tuple(record.get("notes", ())),
    )


def _pairs(table: Mapping[Any, float]) -> list[list[Any]]:
    return [[rows, value] for rows, value in table.items()]
