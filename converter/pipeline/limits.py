"""The limits that the user sets on parameters and multiply-adds, as every plan has to keep them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from aslconvert.converter.errors import TargetNotReached
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.search.candidates import Candidate, row_grid
from aslconvert.converter.search.costs import Costs, input_shapes
from aslconvert.converter.search.plan import candidates_of, solve_fastest
from aslconvert.converter.search.sizes import Size, SizeOf, rest_of, site_sizes, size_of

_ROUNDING = 1 + 1e-6
"""The solver keeps its bounds to about a millionth."""


@dataclass(frozen=True)
class Limits:
    """``asked`` of the whole network, ``rest`` what it has beside its sites, ``sizes`` of every site's candidates."""

    asked: Size
    rest: Size
    sizes: dict[str, SizeOf]

    @property
    def of_sites(self) -> Size:
        """What is left for the sites together."""
        return Size(self.asked.bytes - self.rest.bytes, self.asked.macs - self.rest.macs)

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return math.isfinite(self.asked.bytes) or math.isfinite(self.asked.macs)

    def kept_by(self, gm: nn.Module, subject: Subject) -> bool:
        """Whether a whole network keeps the limits, by counting it."""
        allowed = Size(self.asked.bytes * _ROUNDING, self.asked.macs * _ROUNDING)
        return not self.any or size_of(gm, subject.example).within(allowed)

    def whole(self, chosen: Mapping[str, Candidate]) -> Size:
        """The size of the network that a choice of candidates makes."""
        sites = chosen.values()
        return Size(self.rest.bytes + sum(c.bytes for c in sites), self.rest.macs + sum(c.macs for c in sites))


def limits_of(subject: Subject, options: ConvertOptions) -> Limits:
    """The limits of ``options`` on variants of ``subject``."""
    sizes = site_sizes(subject.sites, input_shapes(subject.gm, subject.sites, subject.example))
    megabytes, macs = options.max_params_mb, options.max_macs
    return Limits(
        asked=Size(math.inf if megabytes is None else megabytes * 1e6, math.inf if macs is None else macs),
        rest=rest_of(size_of(subject.gm, subject.example), subject.sites, sizes),
        sizes=sizes,
    )


def check_limits(subject: Subject, options: ConvertOptions) -> None:
    """Raise TargetNotReached (``limits_not_reached``) where sizes alone tell it, before anything is timed."""
    limits = limits_of(subject, options)
    damage = {site.name: dict.fromkeys(row_grid(site), 0.0) for site in subject.sites}
    costs: dict[str, Costs] = {site.name: dict.fromkeys((None, *row_grid(site)), 0.0) for site in subject.sites}
    need_feasible(limits, candidates_of(subject.sites, costs, damage, sizes=limits.sizes))


def need_feasible(limits: Limits, table: Mapping[str, Sequence[Candidate]]) -> None:
    """Raise TargetNotReached (``limits_not_reached``) when no plan keeps the limits."""
    if limits.any and solve_fastest(table, limits=limits.of_sites) is None:
        raise out_of_reach(limits, table)


def out_of_reach(limits: Limits, table: Mapping[str, Sequence[Candidate]]) -> TargetNotReached:
    """The error that tells how far the smallest plans are from the limits."""
    least = Size(
        limits.rest.bytes + sum(min(c.bytes for c in row) for row in table.values()),
        limits.rest.macs + sum(min(c.macs for c in row) for row in table.values()),
    )
    return TargetNotReached(
        "limits_not_reached",
        f"No plan keeps the limits: the smallest has {least.bytes / 1e6:.3g} MB of parameters, the one that computes "
        f"least {least.macs / 1e6:.4g} million multiply-adds a sample.",
        hint="Raise --max-params-mb or --max-macs, or allow pruning with --allow prune.",
    )
