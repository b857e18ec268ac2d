"""Plans: one candidate for every site, least damage within a latency budget, solved exactly.

The multiple-choice knapsack: minimise the summed damage subject to the summed latency, one candidate a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.search.candidates import Candidate
from aslconvert.converter.search.costs import Costs
from aslconvert.converter.search.damage import Damage

Plan = dict[str, int | None]
"""Rows by site name; None keeps the site."""


def candidates_of(
    sites: Sequence[ConvSite], costs: Mapping[str, Costs], damage: Mapping[str, Damage]
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
            )
            for rows in options
        ]
    return table


def solve_plan(table: Mapping[str, Sequence[Candidate]], budget_ms: float) -> dict[str, Candidate] | None:
    """The candidate of each key with the least summed damage whose summed latency is within ``budget_ms``.

    None when even the fastest candidates exceed it.
    """
    if sum(min(c.latency_ms for c in row) for row in table.values()) > budget_ms:
        return None
    keys = list(table)
    flat = [(index, candidate) for index, key in enumerate(keys) for candidate in table[key]]
    # The solver's tolerances are absolute: damages are scaled to about one, and ties go to the faster candidate.
    worst = max(c.damage for _, c in flat) or 1.0
    slowest = max(c.latency_ms for _, c in flat) or 1.0
    objective = np.array([c.damage / worst + 1e-6 * c.latency_ms / slowest for _, c in flat])
    one_each = np.zeros((len(keys), len(flat)))
    for column, (row, _) in enumerate(flat):
        one_each[row, column] = 1.0
    latency = np.array([[c.latency_ms for _, c in flat]])
    result = milp(
        objective,
        integrality=np.ones(len(flat), dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(latency, -np.inf, budget_ms)],
        options={"mip_rel_gap": 1e-6, "time_limit": 10.0},
    )
    if result.x is None:
        return None
    return {keys[row]: candidate for x, (row, candidate) in zip(result.x, flat, strict=True) if x > 0.5}


def plan_of(sites: Sequence[ConvSite], chosen: Mapping[str, Candidate]) -> Plan:
    """The choice by key, as rows by site name."""
    return {site.name: chosen[site.key].rows for site in sites}


def fastest_ms(table: Mapping[str, Sequence[Candidate]]) -> float:
    """Summed latency of the fastest candidates."""
    return sum(min(c.latency_ms for c in row) for row in table.values())
