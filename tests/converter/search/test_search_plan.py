"""The plan is the best that brute force finds; lines and frontiers are what their definitions say."""

import itertools
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aslconvert.converter.ir.site import ConvSite, Geometry
from aslconvert.converter.search.candidates import Candidate, row_grid, stand_in
from aslconvert.converter.search.costs import linear_cost
from aslconvert.converter.search.frontier import Point, choose, dominated
from aslconvert.converter.search.plan import candidates_of, plan_of, solve_fastest, solve_plan
from aslconvert.converter.search.sizes import Size

GEOMETRY = Geometry((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
SITE = ConvSite(
    name="a",
    node="conv2d",
    op="conv2d",
    weight_target="a.weight",
    bias_target=None,
    in_channels=32,
    out_channels=16,
    groups=1,
    transposed=False,
    geometry=GEOMETRY,
    input_shape=(1, 32, 8, 8),
    output_shape=(1, 16, 8, 8),
    dtype=torch.float32,
    key="a",
)

FIGURE = st.integers(0, 40).map(lambda n: n / 8)
TABLES = st.lists(st.lists(st.tuples(FIGURE, FIGURE), min_size=1, max_size=4), min_size=1, max_size=4).map(
    lambda rows: {
        str(i): [Candidate(rows=k, latency_ms=ms, damage=harm) for k, (ms, harm) in enumerate(row)]
        for i, row in enumerate(rows)
    }
)


@settings(max_examples=25, deadline=None)
@given(table=TABLES, budget=st.integers(0, 100).map(lambda n: n / 8 + 1 / 16))
def test_the_plan_is_the_one_that_brute_force_finds(table: dict[str, list[Candidate]], budget: float) -> None:
    every = [plan for plan in itertools.product(*table.values()) if sum(c.latency_ms for c in plan) <= budget]
    found = solve_plan(table, budget)
    if not every:
        assert found is None
        return
    assert found is not None
    assert list(found) == list(table)
    assert all(found[key] in row for key, row in table.items())
    assert sum(c.latency_ms for c in found.values()) <= budget + 1e-9
    least = min(sum(c.damage for c in plan) for plan in every)
    assert sum(c.damage for c in found.values()) == pytest.approx(least, abs=1e-3)


LIMITED = st.lists(
    st.lists(st.tuples(FIGURE, FIGURE, FIGURE, FIGURE), min_size=1, max_size=4), min_size=1, max_size=4
).map(
    lambda rows: {
        str(i): [
            Candidate(rows=k, latency_ms=ms, damage=harm, bytes=size, macs=work)
            for k, (ms, harm, size, work) in enumerate(row)
        ]
        for i, row in enumerate(rows)
    }
)
BOUND = st.integers(0, 100).map(lambda n: n / 8 + 1 / 16)


@settings(max_examples=25, deadline=None)
@given(table=LIMITED, budget=BOUND, size=BOUND, work=BOUND)
def test_plans_keep_the_limits_and_the_dual_is_what_brute_force_finds(
    table: dict[str, list[Candidate]], budget: float, size: float, work: float
) -> None:
    every = [
        plan
        for plan in itertools.product(*table.values())
        if sum(c.bytes for c in plan) <= size and sum(c.macs for c in plan) <= work
    ]
    for found, within, aim in (
        (solve_plan(table, budget, limits=Size(size, work)), "latency_ms", "damage"),
        (solve_fastest(table, damage=budget, limits=Size(size, work)), "damage", "latency_ms"),
    ):
        fitting = [plan for plan in every if sum(getattr(c, within) for c in plan) <= budget]
        assert (found is None) == (not fitting)
        if found is not None:
            assert sum(c.bytes for c in found.values()) <= size + 1e-4
            assert sum(c.macs for c in found.values()) <= work + 1e-4
            assert sum(getattr(c, within) for c in found.values()) <= budget + 1e-4
            least = min(sum(getattr(c, aim) for c in plan) for plan in fitting)
            assert sum(getattr(c, aim) for c in found.values()) == pytest.approx(least, abs=1e-3)


def test_nothing_fits_below_the_fastest_plan() -> None:
    table = {"a": [Candidate(None, 2.0, 0.0), Candidate(16, 1.0, 0.5)], "b": [Candidate(None, 1.0, 0.0)]}
    fastest = solve_fastest(table)
    assert fastest is not None
    assert sum(c.latency_ms for c in fastest.values()) == 2.0
    assert solve_plan(table, 1.99) is None
    at_last = solve_plan(table, 2.0)
    assert at_last is not None
    assert at_last["a"].rows == 16


def test_damages_of_any_scale_are_told_apart() -> None:
    table = {"a": [Candidate(1, 1.0, 3e-9), Candidate(2, 1.1, 1e-9), Candidate(None, 9.0, 0.0)]}
    found = solve_plan(table, 2.0)
    assert found is not None
    assert found["a"].rows == 2


def test_tied_sites_are_chosen_together_and_pay_twice() -> None:
    sites = [SITE, replace(SITE, name="b"), replace(SITE, name="c", key="c")]
    costs = {name: {None: 2.0, 16: 1.0} for name in "abc"}
    damage = {name: {16: 0.5} for name in "abc"}
    table = candidates_of(sites, costs, damage)
    assert [(c.rows, c.latency_ms, c.damage) for c in table["a"]] == [(None, 4.0, 0.0), (16, 2.0, 1.0)]
    chosen = solve_plan(table, 5.0)
    assert chosen is not None
    assert plan_of(sites, chosen) == {"a": None, "b": None, "c": 16} or plan_of(sites, chosen) == {
        "a": 16,
        "b": 16,
        "c": None,
    }
    # Two damaged calls cost twice the harm of one.
    assert sum(c.damage for c in solve_plan(table, 5.0).values()) == 0.5  # type: ignore[union-attr]


@settings(max_examples=25, deadline=None)
@given(start=st.floats(0, 5), slope=st.floats(0, 0.1), seed=st.integers(0, 99))
def test_one_spoilt_point_does_not_move_the_line(start: float, slope: float, seed: int) -> None:
    rows = [16, 32, 64, 128, 256]
    known = {k: start + slope * k for k in rows}
    generator = random.Random(seed)
    known[generator.choice(rows)] *= generator.uniform(1.5, 10)
    found_start, found_slope = linear_cost(known)
    assert found_slope == pytest.approx(slope, abs=1e-6)
    assert found_start == pytest.approx(start, abs=1e-6)


def test_a_falling_or_lonely_measurement_gives_no_negative_cost() -> None:
    assert linear_cost({16: 3.0, 32: 2.0, 64: 1.0}) == (2.0, 0.0)
    assert linear_cost({16: 3.0}) == (3.0, 0.0)


def test_row_counts_ascend_to_all_taps_in_whole_vectors() -> None:
    grid = row_grid(SITE)
    assert grid == sorted(set(grid))
    assert grid[-1] == 32 * 9
    assert all(rows % 16 == 0 for rows in grid[:-1])
    assert set(row_grid(SITE, probed=True)) <= set(grid)
    assert row_grid(replace(SITE, in_channels=3))[0] >= 1
    assert row_grid(replace(SITE, in_channels=1, geometry=Geometry((1, 2), *[(1, 1)] * 2, *[(0, 0)] * 2)))[-1] == 2


@pytest.mark.parametrize("rows", row_grid(SITE))
def test_a_stand_in_has_the_shape_of_a_fit(rows: int) -> None:
    block = stand_in(SITE, rows)
    assert block.rows == rows
    assert block.weight.shape == (16, rows)
    assert int(block.source.max()) < 32
    assert float(block.shift.abs().max()) <= 1.0
    if rows == 32 * 9:
        assert torch.equal(block.shift, block.shift.round())


POINTS = st.lists(
    st.builds(Point, id=st.uuids().map(str), speedup=st.integers(1, 5).map(float), loss=st.integers(0, 5).map(float)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(points=POINTS)
def test_the_frontier_is_what_nothing_beats(points: list[Point]) -> None:
    worse = dominated(points)
    for point in points:
        beaten = any(
            o.speedup >= point.speedup and o.loss <= point.loss and (o.speedup, o.loss) != (point.speedup, point.loss)
            for o in points
        )
        assert (point.id in worse) == beaten


@settings(max_examples=25, deadline=None)
@given(points=POINTS, wish=st.integers(0, 6).map(float))
def test_the_choice_is_never_dominated_and_meets_the_wish_if_any_does(points: list[Point], wish: float) -> None:
    by_id = {point.id: point for point in points}
    fast, fast_met = choose(points, min_speedup=wish, max_drop=None)
    assert fast_met == any(point.speedup >= wish for point in points) == (by_id[fast].speedup >= wish)
    near, near_met = choose(points, min_speedup=None, max_drop=wish)
    assert near_met == any(point.loss <= wish for point in points) == (by_id[near].loss <= wish)
    assert not {fast, near} & dominated(points)


@pytest.mark.parametrize(("speedup", "drop"), [(None, None), (2.0, 0.1)])
def test_a_choice_needs_exactly_one_wish(speedup: float | None, drop: float | None) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        choose([Point("a", 2.0, 0.1)], min_speedup=speedup, max_drop=drop)
