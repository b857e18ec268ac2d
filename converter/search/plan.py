"""Plans: one candidate for every site, least damage within a latency budget or the reverse, solved exactly.

The multiple-choice knapsack: minimise the summed damage subject to the summed latency, bytes and multiply-adds, one
candidate a site.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.search.candidates import Candidate
from aslconvert.converter.search.costs import Costs
from aslconvert.converter.search.damage import Damage
from aslconvert.converter.search.sizes import UNLIMITED, Size, SizeOf

Plan = dict[str, int | None]
"""Rows by site name; None keeps the site."""

Row = np.ndarray[tuple[int], np.dtype[np.float64]]


def candidates_of(
    sites: Sequence[ConvSite],
    costs: Mapping[str, Costs],
    damage: Mapping[str, Damage],
    *,
    sizes: Mapping[str, SizeOf] | None = None,
) -> dict[str, list[Candidate]]:
    """Candidates by site key; tied sites are chosen together, their costs added. A site without damage is kept."""
    grouped: dict[str, list[ConvSite]] = {}
    for site in sites:
        grouped.setdefault(site.key, []).append(site)
    table: dict[str, list[Candidate]] = {}
    for key, members in grouped.items():
        options: list[int | None] = [None, *sorted(damage.get(members[0].name, {}))]
        table[key] = [
            Candidate(
                rows=rows,
                latency_ms=sum(costs[site.name][rows] for site in members),
                damage=0.0 if rows is None else sum(damage[site.name][rows] for site in members),
                bytes=0.0 if sizes is None else sum(sizes[site.name](rows).bytes for site in members),
                macs=0.0 if sizes is None else sum(sizes[site.name](rows).macs for site in members),
            )
            for rows in options
        ]
    return table


def solve_plan(
    table: Mapping[str, Sequence[Candidate]], budget_ms: float, *, limits: Size = UNLIMITED
) -> dict[str, Candidate] | None:
    """The candidate of each key with the least summed damage whose summed latency is within ``budget_ms``.

    ``limits`` bound the summed bytes and multiply-adds too. None when no choice keeps all of it.
    """
    if sum(min(c.latency_ms for c in row) for row in table.values()) > budget_ms:
        return None
    # Ties go to the faster candidate.
    return _solve(table, {"damage": 1.0, "latency_ms": 1e-6}, {"latency_ms": budget_ms}, limits)


def solve_fastest(
    table: Mapping[str, Sequence[Candidate]], *, damage: float = math.inf, limits: Size = UNLIMITED
) -> dict[str, Candidate] | None:
    """The dual: the candidate of each key with the least summed latency whose summed damage is within ``damage``."""
    return _solve(table, {"latency_ms": 1.0, "damage": 1e-6}, {"damage": damage}, limits)


def _solve(
    table: Mapping[str, Sequence[Candidate]], aims: Mapping[str, float], bounds: Mapping[str, float], limits: Size
) -> dict[str, Candidate] | None:
    """Minimise the weighted ``aims`` with each figure of ``bounds`` and ``limits`` within its bound."""
    keys = list(table)
    flat = [(index, candidate) for index, key in enumerate(keys) for candidate in table[key]]
    if not flat:
        return {}

    def column(figure: str) -> Row:
        return np.array([getattr(candidate, figure) for _, candidate in flat], dtype=np.float64)

    # The solver's tolerances are absolute: what is minimised is scaled to about one, and so is what is bounded.
    objective = np.zeros(len(flat))
    for figure, weight in aims.items():
        objective += weight * column(figure) / (column(figure).max() or 1.0)
    one_each = np.zeros((len(keys), len(flat)))
    for place, (row, _) in enumerate(flat):
        one_each[row, place] = 1.0
    constraints = [LinearConstraint(one_each, 1, 1)]
    for figure, bound in {**bounds, "bytes": limits.bytes, "macs": limits.macs}.items():
        if math.isfinite(bound):
            scale = column(figure).max() or 1.0
            constraints.append(LinearConstraint(column(figure)[None] / scale, -np.inf, bound / scale))
    result = milp(
        objective,
        integrality=np.ones(len(flat), dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 1e-6, "time_limit": 10.0},
    )
    if result.x is None:
        return None
    return {keys[row]: candidate for x, (row, candidate) in zip(result.x, flat, strict=True) if x > 0.5}


def plan_of(sites: Sequence[ConvSite], chosen: Mapping[str, Candidate]) -> Plan:
    """The choice by key, as rows by site name."""
    return {site.name: chosen[site.key].rows for site in sites}
