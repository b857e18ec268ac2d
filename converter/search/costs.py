"""Measured latency of every site's candidates on this device, at the shapes the model will meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

import torch
from torch import Tensor, fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.cost.latency import Latency, measure, ratio
from aslconvert.converter.cost.runtimes import torch_runner
from aslconvert.converter.ir.graph import aten
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.fast import fast_form, int16_form
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.search.alone import kept_alone, rows_alone
from aslconvert.converter.search.candidates import row_grid

ROUNDS = 7
SECOND_ROUNDS = 25
MIN_TIME = 0.004

Costs = dict[int | None, float]
"""Milliseconds by rows; None is the kept convolution."""

FileRunner = Callable[[fx.GraphModule, Tensor], Callable[[], Any]]
"""Makes a runner of standard operators and their input in a runtime for files."""

NO_GAIN = "no_gain"
"""Reason code of a site that no candidate makes measurably faster."""


@dataclass(frozen=True)
class SiteCosts:
    """Latency by site and candidate, and per site that the gate keeps, why: ``kept`` maps names to sentences."""

    costs: dict[str, Costs]
    kept: dict[str, str]


def input_shapes(
    gm: fx.GraphModule, sites: Sequence[ConvSite], inputs: tuple[Tensor, ...]
) -> dict[str, tuple[int, ...]]:
    """Shape of each site's input when the model is called with ``inputs``."""
    nodes = {node.name: node for node in gm.graph.nodes}
    recorder = _Shapes(gm)
    with torch.no_grad():
        recorder.run(*inputs)
    return {site.name: recorder.shapes[nodes[site.node].args[0]] for site in sites}


def site_costs(
    gm: fx.GraphModule,
    sites: Sequence[ConvSite],
    inputs: tuple[Tensor, ...],
    *,
    seed: int,
    int16: bool = False,
    files: FileRunner | None = None,
) -> SiteCosts:
    """Latency of the kept convolution (eager torch) and of each row count (fast form), per call of the site.

    ``int16``: in the 16-bit form. ``files``: both in that runtime instead, where rows read their channels in order.

    The gate keeps a site unless some candidate with fewer rows than all taps is faster than the convolution with 95 %
    confidence, over rounds in which both were timed. Tied sites are kept only if every one of them is.

    A ReLU that alone reads the convolution is counted on both sides, as the fused op takes it along. Sites of equal
    shape and geometry are measured once; row counts lie on the line through the probed ones.
    """
    shapes = input_shapes(gm, sites, inputs)
    nodes = {node.name: node for node in gm.graph.nodes}
    runners: dict[str, Callable[[], Any]] = {}
    kinds: dict[str, tuple[Any, ...]] = {}
    for site in sites:
        relu = _only_relu(nodes[site.node])
        shape = (shapes[site.name], site.out_channels, site.groups, site.geometry, site.output_padding)
        kinds[site.name] = (site.op, *shape, site.dtype, relu)
    representatives: dict[tuple[Any, ...], ConvSite] = {}
    for site in sites:
        representatives.setdefault(kinds[site.name], site)
    in_order = files is not None
    fast = int16_form if int16 else fast_form
    for index, (kind, site) in enumerate(representatives.items()):
        x = torch.rand(shapes[site.name], generator=torch.Generator().manual_seed(seed)).to(site.dtype)
        kept = kept_alone(site, relu=kind[-1])
        runners[f"{index}:keep"] = torch_runner(kept, [x]) if files is None else files(kept, x)
        for rows in row_grid(site, probed=True, in_order=in_order):
            form = rows_alone(site, x, rows, relu=kind[-1], seed=seed)
            runners[f"{index}:{rows}"] = torch_runner(fast(form), [x]) if files is None else files(lower(form), x)
    timed = measure(runners, rounds=ROUNDS, min_time=MIN_TIME, seed=seed)
    by_kind: dict[tuple[Any, ...], Costs] = {}
    gated: dict[tuple[Any, ...], str] = {}
    for index, (kind, site) in enumerate(representatives.items()):
        probed = {rows: timed[f"{index}:{rows}"].p50_ms for rows in row_grid(site, probed=True, in_order=in_order)}
        exact = site.exact_rows
        start, per_row = linear_cost(probed)
        costs: Costs = {rows: start + per_row * rows for rows in row_grid(site, in_order=in_order)}
        costs[exact] = probed[exact]
        costs[None] = timed[f"{index}:keep"].p50_ms
        by_kind[kind] = costs
        trials = {rows: timed[f"{index}:{rows}"] for rows in probed if rows != exact}
        reason = gate(timed[f"{index}:keep"], trials)
        best = min(trials, key=lambda rows: trials[rows].p50_ms) if trials else exact
        if reason is not None and trials and trials[best].p50_ms < timed[f"{index}:keep"].p50_ms:
            # Other work on the machine spoils rounds: what is faster in the median only gets a second, longer look.
            pair = {name: runners[f"{index}:{name}"] for name in ("keep", str(best))}
            again = measure(pair, rounds=SECOND_ROUNDS, min_time=MIN_TIME, seed=seed)
            reason = gate(again["keep"], {best: again[str(best)]})
        if reason is not None:
            gated[kind] = reason
    paying = {site.key for site in sites if kinds[site.name] not in gated}
    return SiteCosts(
        costs={site.name: by_kind[kinds[site.name]] for site in sites},
        kept={site.name: gated[kinds[site.name]] for site in sites if site.key not in paying},
    )


def gate(keep: Latency, trials: Mapping[int, Latency]) -> str | None:
    """Why a site is kept: no trial (latency by rows) is measurably faster than ``keep``; None when one is."""
    if not trials:
        return "Its kernel has too few taps for a form with fewer rows than all of them."
    best = min(trials, key=lambda rows: trials[rows].p50_ms)
    gain = ratio(keep, trials[best])
    if gain.ci_low > 1.0:
        return None
    return (
        f"{best} shifted rows take {trials[best].p50_ms:.3f} ms, the convolution {keep.p50_ms:.3f} ms "
        f"(ratio {gain.ci_low:.2f} .. {gain.ci_high:.2f})."
    )


def linear_cost(known: Mapping[int, float]) -> tuple[float, float]:
    """(milliseconds, milliseconds a row) of the line through measured latencies, in the median of all pairs' slopes.

    Shifting and mixing K rows both take time proportional to K; the Theil-Sen line is not moved by one point that
    the machine's noise spoilt. Neither figure is negative.
    """
    points = sorted(known.items())
    slopes = [(y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in combinations(points, 2)]
    slope = max(median(slopes), 0.0) if slopes else 0.0
    return max(median([y - slope * x for x, y in points]), 0.0), slope


class _Shapes(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.shapes: dict[Any, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        return value


def _only_relu(node: fx.Node) -> bool:
    users = list(node.users)
    return len(users) == 1 and users[0].target in (aten.relu.default, aten.relu_.default)
