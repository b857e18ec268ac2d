"""Block-wise reconstruction: units of successive sites are trained, one after the other, towards the original's output.

A unit ends where its last site's output leaves it: after the activation, or after the sum with a residual. Its inputs
are what the student so far makes of the pool, so that it absorbs the error made upstream, as the fit of a site does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from aslconvert.converter.fit.pure import PureInterpreter, call_pure
from aslconvert.converter.heal.loop import BATCH, FULL_RATE_LOSS, LEAST_RATE
from aslconvert.converter.heal.loss import distillation_loss
from aslconvert.converter.heal.optimiser import base_rates, build_optimisers, set_rates, shift_names
from aslconvert.converter.heal.pool import Pool
from aslconvert.converter.heal.schedule import rate_factor
from aslconvert.converter.ir.graph import attribute
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.replace_sites import SITE

UNIT = 2
"""Sites of a unit: the two convolutions of a residual block, or two in a chain."""

CHUNK = 16

PASSED = {"relu", "relu_", "leaky_relu", "leaky_relu_", "hardtanh", "hardtanh_", "silu", "silu_", "add", "add_"}
"""Operators that belong to the unit whose output they alone read."""


def units_of(gm: fx.GraphModule, sites: Sequence[ConvSite]) -> list[tuple[list[ConvSite], str]]:
    """Sites in the order of the graph, ``UNIT`` together, with the name of the node that a unit ends with."""
    nodes = {node.name: node for node in gm.graph.nodes}
    order = {name: index for index, name in enumerate(nodes)}
    ordered = sorted(sites, key=lambda site: order[site.node])
    units = []
    for first in range(0, len(ordered), UNIT):
        members = ordered[first : first + UNIT]
        end = nodes[members[-1].node]
        while len(end.users) == 1:
            (user,) = end.users
            if getattr(user.target, "_opname", "") not in PASSED:
                break
            end = user
        units.append((members, end.name))
    return units


def reconstruct(
    student: fx.GraphModule,
    teacher: fx.GraphModule,
    sites: Sequence[ConvSite],
    pool: Pool,
    *,
    seconds: float,
    seed: int,
) -> int:
    """Train every unit's blocks in place for its share of ``seconds`` of processor time; returns the steps taken.

    Optimiser, schedule, batch and distance are those of healing. ``sites`` are those of ``teacher`` that ``student``
    has blocks for.
    """
    started = time.process_time()
    units = units_of(teacher, sites)
    wanted = _values(teacher, {end for _, end in units}, pool)
    nodes = {node.name: node for node in student.graph.nodes}
    shifted = {node.meta[SITE]: node for node in nodes.values() if SITE in node.meta}
    held = _Held(student, pool)
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    steps = 0
    for number, (members, end_name) in enumerate(units):
        # Where the unit ends with the site itself, its node has become the 1x1 convolution behind the rows.
        end = nodes[end_name] if end_name in nodes else next(iter(shifted[members[-1].name].users))
        body = _body(student, shifted[members[0].name], end)
        inputs = held.up_to(body)
        trained = _parameters(student, body)
        until = started + seconds * (number + 1) / len(units)
        steps += _train(student, body, end, inputs, wanted[end_name], trained, until=until, seed=seed)
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return steps


def _train(
    gm: fx.GraphModule,
    body: Sequence[fx.Node],
    end: fx.Node,
    inputs: dict[fx.Node, Tensor],
    wanted: Tensor,
    trained: Sequence[Tensor],
    *,
    until: float,
    seed: int,
) -> int:
    for parameter in trained:
        parameter.requires_grad_(True)
    optimisers, shift_gradients = build_optimisers(gm, shift_names(gm))
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    rates = base_rates(optimisers)
    steps = 0
    while (now := time.process_time()) < until:
        index = torch.randint(len(wanted), (BATCH,), generator=generator)
        got = _run(gm, body, {node: value[index] for node, value in inputs.items()})[end]
        loss = distillation_loss([got], [wanted[index]])
        if steps == 0:
            scale = min(max(float(loss.detach()) / FULL_RATE_LOSS, LEAST_RATE), 1.0)
            rates = [[rate * scale for rate in group] for group in rates]
        set_rates(optimisers, rates, rate_factor((now - start) / (until - start)))
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        shift_gradients.normalise()
        for optimiser in optimisers:
            optimiser.step()
        steps += 1
    for parameter in trained:
        parameter.requires_grad_(False)
    return steps


class _Held:
    """The student's values over the whole pool, kept as long as a later node reads them."""

    def __init__(self, gm: fx.GraphModule, pool: Pool) -> None:
        self._gm = gm
        self._nodes = [node for node in gm.graph.nodes if node.op == "call_function"]
        self._done = 0
        places = [node for node in gm.graph.nodes if node.op == "placeholder"]
        self._values: dict[fx.Node, Any] = dict(zip(places, pool.inputs, strict=True))

    def up_to(self, body: Sequence[fx.Node]) -> dict[fx.Node, Tensor]:
        """What ``body`` reads from before it, with everything computed that comes first."""
        first = self._nodes.index(body[0])
        within = set(body)
        # A residual's own branch may stand between the unit's nodes, but never needs them.
        needed = {
            used for node in body for used in node.all_input_nodes if used not in within and used.op != "get_attr"
        }
        last = max([first, *(self._nodes.index(node) + 1 for node in needed if node in self._nodes)])
        with torch.no_grad():
            for node in self._nodes[self._done : last]:
                if node not in within:
                    self._compute(node)
        for node in self._nodes[self._done : first]:
            for used in node.all_input_nodes:
                if used in self._values and all(self._is_past(user, first) for user in used.users):
                    del self._values[used]
        self._done = first
        return {node: self._values[node] for node in needed}

    def _is_past(self, node: fx.Node, first: int) -> bool:
        return node in self._nodes and self._nodes.index(node) < first

    def _compute(self, node: fx.Node) -> None:
        used = [other for other in node.all_input_nodes if other.op != "get_attr"]
        count = len(self._values[used[0]])
        parts = [
            _run(self._gm, [node], {other: self._values[other][start : start + CHUNK] for other in used})[node]
            for start in range(0, count, CHUNK)
        ]
        # The size of a batch is no value of the pool; what reads one comes after the units.
        if isinstance(parts[0], Tensor):
            self._values[node] = torch.cat(parts)


def _body(gm: fx.GraphModule, first: fx.Node, end: fx.Node) -> list[fx.Node]:
    """The nodes from ``first`` to ``end`` that hang on ``first`` and that ``end`` needs, in order."""
    needed = {end}
    for node in reversed(gm.graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    reached = {first}
    for node in gm.graph.nodes:
        if any(used in reached for used in node.all_input_nodes):
            reached.add(node)
    return [node for node in gm.graph.nodes if node in reached and node in needed]


def _parameters(gm: fx.GraphModule, body: Sequence[fx.Node]) -> list[Tensor]:
    names = {node.target for one in body for node in one.all_input_nodes if node.op == "get_attr"}
    return [value for name, value in gm.named_parameters() if name in names and value.is_floating_point()]


def _run(gm: fx.GraphModule, body: Sequence[fx.Node], values: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
    """The values of ``body`` too."""
    values = dict(values)

    def value_of(node: fx.Node) -> Any:
        return attribute(gm, node.target) if node.op == "get_attr" else values[node]

    for node in body:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value_of)
        values[node] = call_pure(node.target, args, kwargs)  # type: ignore[arg-type]  # a call_function's is callable
    return values


class _Recorder(PureInterpreter):
    def __init__(self, gm: fx.GraphModule, names: set[str]) -> None:
        super().__init__(gm)
        self._names = names
        self.found: dict[str, list[Tensor]] = {name: [] for name in names}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names:
            self.found[n.name].append(value)
        return value


def _values(gm: fx.GraphModule, names: set[str], pool: Pool) -> dict[str, Tensor]:
    recorder = _Recorder(gm, names)
    with torch.no_grad():
        for start in range(0, len(pool), CHUNK):
            recorder.run(*(x[start : start + CHUNK] for x in pool.inputs))
    return {name: torch.cat(parts) for name, parts in recorder.found.items()}
