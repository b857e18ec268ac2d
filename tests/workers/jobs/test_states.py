"""The table of transitions is closed, reaches every end, and every other way raises."""

import itertools

import pytest

from aslconvert.workers.errors import IllegalTransition
from aslconvert.workers.jobs.ids import new_id
from aslconvert.workers.jobs.states import FINISHED, HELD, TRANSITIONS, State, require, sources


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_only_the_ways_of_the_table_are_open(before: State, after: State) -> None:
    if after in TRANSITIONS[before]:
        require(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"{before} cannot become {after}"):
            require(before, after)
    assert (before in sources(after)) == (after in TRANSITIONS[before])


def test_an_end_is_an_end() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in FINISHED:
        assert TRANSITIONS[state] == {State.EXPIRED}
    assert TRANSITIONS[State.EXPIRED] == set()
    assert all(TRANSITIONS[state] & FINISHED for state in HELD | {State.QUEUED})


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = [new_id() for _ in range(2000)]
    assert ids == sorted(set(ids))
    assert {(len(name), name[14]) for name in ids} == {(36, "7")}
