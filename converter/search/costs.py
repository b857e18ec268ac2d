"""Measured latency of every site's candidates on this device, at the shapes the model will meet."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

import torch
from torch import Tensor, fx

import aslconvert.kernels  # noqa: F401  registers torch.ops.asl
from aslconvert.converter.cost.cache import KEEP, Entry, LatencyCache
from aslconvert.converter.cost.latency import Clock, Latency, measure, ratio, summarise
from aslconvert.converter.cost.runtimes import torch_runner
from aslconvert.converter.cost.spread import agrees
from aslconvert.converter.ir.graph import aten
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.fast import fast_form, int16_form
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.search.alone import FileRunner, kept_alone, rows_alone
from aslconvert.converter.search.candidates import row_grid

ROUNDS = 7
SECOND_ROUNDS = 25
MIN_TIME = 0.004

CHECKED = 2
"""Cached candidates that are timed again in every run that takes any from the cache."""

Costs = dict[int | None, float]
"""Milliseconds by rows; None is the kept convolution."""

NO_GAIN = "no_gain"
"""Reason code of a site that no candidate makes measurably faster."""


@dataclass(frozen=True)
class SiteCosts:
    """Latency by site and candidate, and per site that the gate keeps, why: ``kept`` maps names to sentences.

    ``cached`` counts the sites whose latencies were measured in an earlier run; ``notes`` tell of the cache.
    """

    costs: dict[str, Costs]
    kept: dict[str, str]
    cached: int = 0
    notes: tuple[str, ...] = ()


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
    cache: LatencyCache | None = None,
    files: FileRunner | None = None,
    clock: Clock = time.perf_counter_ns,
) -> SiteCosts:
    """Latency of the kept convolution (eager torch) and of each row count (fast form), per call of the site.

    ``int16``: in the 16-bit form. ``cache``: what it holds of these sites is taken from it, once two of its candidates
    were timed again and agree; the rest is added to it. ``files``: everything runs in that runtime instead, where rows
    read their channels in order. ``clock``: as of ``measure``.

    The gate keeps a site unless some candidate with fewer rows than all taps is faster than the convolution with 95 %
    confidence, over rounds in which both were timed. Tied sites are kept only if every one of them is.

    A ReLU that alone reads the convolution is counted on both sides, as the fused op takes it along. Sites of equal
    shape and geometry are measured once; row counts lie on the line through the probed ones.
    """
    shapes = input_shapes(gm, sites, inputs)
    nodes = {node.name: node for node in gm.graph.nodes}
    kinds: dict[str, str] = {}
    benches: dict[str, _Bench] = {}
    for site in sites:
        bench = _Bench(site, shapes[site.name], relu=_only_relu(nodes[site.node]), seed=seed, int16=int16, files=files)
        kinds[site.name] = bench.kind
        benches.setdefault(bench.kind, bench)
    entries, notes = _stored(benches, cache, seed=seed, clock=clock)
    known = set(entries)
    entries |= _measured({kind: bench for kind, bench in benches.items() if kind not in known}, seed=seed, clock=clock)
    cached = sum(kinds[site.name] in known for site in sites)
    if cache is not None:
        notes = [*cache.notes, *notes]
        if cached:
            notes.append(f"latencies of {cached} of {len(sites)} sites are from the cache (--no-cache measures them)")
        if len(known) < len(entries):
            told = len(cache.notes)
            cache.entries |= {kind: entry for kind, entry in entries.items() if kind not in known}
            cache.save()
            notes += cache.notes[told:]
    by_kind = {kind: _costs(benches[kind], entry) for kind, entry in entries.items()}
    gated = {kind: entry.gated for kind, entry in entries.items() if entry.gated is not None}
    paying = {site.key for site in sites if kinds[site.name] not in gated}
    return SiteCosts(
        costs={site.name: by_kind[kinds[site.name]] for site in sites},
        kept={site.name: gated[kinds[site.name]] for site in sites if site.key not in paying},
        cached=cached,
        notes=tuple(notes),
    )


class _Bench:
    """One kind of site, and how each of its candidates is run: ``keep``, or a number of rows."""

    def __init__(
        self,
        site: ConvSite,
        shape: tuple[int, ...],
        *,
        relu: bool,
        seed: int,
        int16: bool,
        files: FileRunner | None,
    ) -> None:
        self.site = site
        self.in_order = files is not None
        self.candidates = (KEEP, *map(str, row_grid(site, probed=True, in_order=self.in_order)))
        layer = (site.op, shape, site.out_channels, site.groups, site.row_groups, site.geometry, site.output_padding)
        where = () if files is None else (files.runtime,)
        self.kind = repr((*layer, site.dtype, relu, self.candidates, *where))
        self._shape, self._relu, self._seed = shape, relu, seed
        self._files, self._fast = files, int16_form if int16 else fast_form

    def runner(self, candidate: str) -> Callable[[], Any]:
        x = torch.rand(self._shape, generator=torch.Generator().manual_seed(self._seed)).to(self.site.dtype)
        if candidate == KEEP:
            kept = kept_alone(self.site, relu=self._relu)
            return torch_runner(kept, [x]) if self._files is None else self._files(kept, x)
        form = rows_alone(self.site, x, int(candidate), relu=self._relu, seed=self._seed)
        return torch_runner(self._fast(form), [x]) if self._files is None else self._files(lower(form), x)


def _stored(
    benches: Mapping[str, _Bench], cache: LatencyCache | None, *, seed: int, clock: Clock
) -> tuple[dict[str, Entry], list[str]]:
    """What the cache holds of these kinds, if a few candidates that are timed again still take as long; and notes."""
    if cache is None:
        return {}, []
    known = {
        kind: cache.entries[kind]
        for kind, bench in benches.items()
        if kind in cache.entries and set(cache.entries[kind].samples) == set(bench.candidates)
    }
    pairs = [(kind, candidate) for kind in known for candidate in benches[kind].candidates]
    picked = random.Random(seed).sample(pairs, min(CHECKED, len(pairs)))
    runners = {f"{kind}|{candidate}": benches[kind].runner(candidate) for kind, candidate in picked}
    again = measure(runners, rounds=ROUNDS, min_time=MIN_TIME, seed=seed, clock=clock)
    for kind, candidate in picked:
        now, stored = again[f"{kind}|{candidate}"], known[kind].samples[candidate]
        if not agrees(stored, now.samples, seed=seed):
            return {}, [
                f"the cached latencies are refused and measured anew: {candidate} of {benches[kind].site.name} takes "
                f"{now.p50_ms:.3f} ms, {summarise(stored).p50_ms:.3f} ms are stored"
            ]
    return known, []


def _measured(benches: Mapping[str, _Bench], *, seed: int, clock: Clock) -> dict[str, Entry]:
    """Time all candidates of these kinds, interleaved, and let the gate decide on each kind."""
    runners = {
        f"{index}:{candidate}": bench.runner(candidate)
        for index, bench in enumerate(benches.values())
        for candidate in bench.candidates
    }
    timed = measure(runners, rounds=ROUNDS, min_time=MIN_TIME, seed=seed, clock=clock)
    entries: dict[str, Entry] = {}
    for index, (kind, bench) in enumerate(benches.items()):
        exact = bench.site.exact_rows
        keep = timed[f"{index}:{KEEP}"]
        trials = {int(rows): timed[f"{index}:{rows}"] for rows in bench.candidates[1:] if int(rows) != exact}
        reason = gate(keep, trials)
        best = min(trials, key=lambda rows: trials[rows].p50_ms) if trials else exact
        if reason is not None and trials and trials[best].p50_ms < keep.p50_ms:
            # Other work on the machine spoils rounds: what is faster in the median only gets a second, longer look.
            pair = {name: runners[f"{index}:{name}"] for name in (KEEP, str(best))}
            again = measure(pair, rounds=SECOND_ROUNDS, min_time=MIN_TIME, seed=seed, clock=clock)
            reason = gate(again[KEEP], {best: again[str(best)]})
        samples = {candidate: timed[f"{index}:{candidate}"].samples for candidate in bench.candidates}
        entries[kind] = Entry(samples=samples, gated=reason)
    return entries


def _costs(bench: _Bench, entry: Entry) -> Costs:
    """Medians of the kept and of the exact form; other row counts lie on the line through all that was probed."""
    medians = {name: median(samples) for name, samples in entry.samples.items()}
    probed = {int(name): value for name, value in medians.items() if name != KEEP}
    exact = bench.site.exact_rows
    start, per_row = linear_cost(probed)
    costs: Costs = {rows: start + per_row * rows for rows in row_grid(bench.site, in_order=bench.in_order)}
    return {**costs, exact: probed[exact], None: medians[KEEP]}


def gate(keep: Latency, trials: Mapping[int, Latency]) -> str | None:
    """Why a site is kept: no trial (latency by rows) is measurably faster than ``keep``; None when one is."""
    if not trials:
        return "Its kernel has too few taps for a form with fewer rows than all of them."
    best = min(trials, key=lambda rows: trials[rows].p50_ms)
    gain = ratio(keep, trials[best])
    if gain.verdict == "faster":
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
