"""A variant to come: its plan, what it aims at, and the stand-in that is timed before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import fx

from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.search.candidates import stand_in
from aslconvert.converter.search.plan import Plan


@dataclass(frozen=True)
class Planned:
    """One variant to come: ``target`` is the speed-up it aims at, ``expected`` what its stand-in measured.

    ``prune`` is the share of channels that go from every group that allows it; rows in ``plan`` are counted before.
    ``damage`` is what the plan's candidates do to the outputs before healing, summed over the sites (relative squared
    error); None where channels go too, whose damage is not known so early.
    ``in_order``: every channel of a site is read equally often.
    """

    id: str
    plan: Plan
    target: float
    expected: float
    prune: float = 0.0
    damage: float | None = None
    in_order: bool = False


def stand_in_of(subject: Subject, plan: Plan, *, seed: int) -> fx.GraphModule:
    """The network that a plan makes, with arbitrary weights in the sites that it converts."""
    sites: dict[str, ConvSite] = {site.name: site for site in subject.sites}
    blocks = {name: stand_in(sites[name], rows, seed=seed) for name, rows in plan.items() if rows is not None}
    return replace_sites(subject.gm, blocks) if blocks else subject.gm


def named(plans: Sequence[Planned]) -> list[Planned]:
    """The plans with ids that differ: two may come out equally fast to two digits."""
    taken: set[str] = set()
    named = []
    for planned in plans:
        name, number = planned.id, 1
        while name in taken:
            number += 1
            name = f"{planned.id}-{number}"
        taken.add(name)
        named.append(replace(planned, id=name))
    return named
