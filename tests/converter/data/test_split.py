from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aslconvert.converter.data.split import MANY_GROUPS, SHARES, SPLITS, assign, group_ids
from aslconvert.converter.errors import UsageError


def _by_name(contents: list[str], given: list[str] | None = None) -> dict[str, int]:
    groups, keys = group_ids(contents, given)
    return dict(zip(contents, assign(groups, keys).tolist(), strict=True))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=80), st.integers(4, 300))
def test_every_split_is_filled_and_copies_stay_together(repeats: list[int], distinct: int) -> None:
    contents = [f"sample-{i}" for i in range(distinct)] + [f"sample-{i % distinct}" for i in repeats]
    groups, keys = group_ids(contents, None)
    splits = assign(groups, keys)
    assert set(splits.tolist()) == set(range(len(SPLITS)))
    for name in set(contents):
        assert len({s for s, content in zip(splits.tolist(), contents, strict=True) if content == name}) == 1


@settings(max_examples=25, deadline=None)
@given(st.permutations([f"sample-{i}" for i in range(30)]))
def test_the_order_of_the_samples_does_not_matter(order: list[str]) -> None:
    assert _by_name(order) == _by_name(sorted(order))


def test_many_groups_keep_their_split_when_samples_are_added() -> None:
    few = [f"sample-{i}" for i in range(MANY_GROUPS)]
    before, after = _by_name(few), _by_name(few + [f"new-{i}" for i in range(500)])
    assert {name: after[name] for name in few} == before


@pytest.mark.parametrize("distinct", [40, 2000])
def test_the_shares_are_kept(distinct: int) -> None:
    splits = np.array(list(_by_name([f"sample-{i}" for i in range(distinct)]).values()))
    assert np.bincount(splits) / distinct == pytest.approx(SHARES, abs=0.05)


def test_copies_join_the_groups_they_lie_in() -> None:
    groups, keys = group_ids(["a", "b", "b", "c"], ["one", "one", "two", "three"])
    assert groups[0] == groups[1] == groups[2] != groups[3]
    assert len(keys) == 2


def test_fewer_groups_than_splits_are_refused() -> None:
    groups, keys = group_ids(["a", "b", "c", "d"], ["one", "one", "two", "three"])
    with pytest.raises(UsageError, match="3 distinct samples or groups") as caught:
        assign(groups, keys)
    assert caught.value.code == "too_few_samples"
