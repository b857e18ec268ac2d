"""Deals groups of samples out to four splits by hash: stable, disjoint, duplicates kept together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from aslconvert.converter.errors import UsageError

SPLITS = ("calibrate", "heal", "validate", "test")
SHARES = (0.20, 0.50, 0.15, 0.15)
# From here on a group's split depends on its own hash alone, so that it stays when samples are added.
MANY_GROUPS = 200

IntArray = np.ndarray[tuple[int], np.dtype[np.int64]]


def group_ids(hashes: Sequence[str], given: Sequence[str] | None) -> tuple[IntArray, list[str]]:
    """Number the groups: samples of one given group, and all samples of equal content, share a group.

    Args:
        hashes: content hash of each sample.
        given: the user's group of each sample, or None.

    Returns:
        The group number of each sample, [N], and a stable key of each group.
    """
    names = list(hashes) if given is None else [f"group:{name}" for name in given]
    root: dict[str, str] = {}

    def find(key: str) -> str:
        while root.setdefault(key, key) != key:
            root[key] = root[root[key]]
            key = root[key]
        return key

    for name, content in zip(names, hashes, strict=True):
        # The smaller key is the root, so that the result does not hang on the order of the samples.
        low, high = sorted((find(name), find(content)))
        root[high] = low
    keys = sorted({find(name) for name in names})
    number = {key: index for index, key in enumerate(keys)}
    return np.array([number[find(name)] for name in names], dtype=np.int64), keys


def assign(groups: IntArray, keys: Sequence[str]) -> IntArray:
    """The split (index into ``SPLITS``) of each sample, [N].

    With at least ``MANY_GROUPS`` groups the hash of the group's key picks the split by ``SHARES``. With fewer, chance
    could leave a split empty: groups are then ordered by hash, the first four fill one split each, and every next one
    goes to the split that is furthest below its share of the samples.

    Raises:
        UsageError: ``too_few_samples``, with fewer groups than splits.
    """
    if len(keys) < len(SPLITS):
        raise UsageError(
            "too_few_samples",
            f"The data has {len(keys)} distinct samples or groups; at least {len(SPLITS)} are needed, "
            f"one for each of {', '.join(SPLITS)}.",
        )
    fractions = np.array([_fraction(key) for key in keys])
    if len(keys) >= MANY_GROUPS:
        of_group = np.searchsorted(np.cumsum(SHARES)[:-1], fractions, side="right")
    else:
        of_group = _deal(fractions, np.bincount(groups, minlength=len(keys)))
    return of_group.astype(np.int64)[groups]


def _deal(fractions: np.ndarray[tuple[int], np.dtype[np.float64]], sizes: IntArray) -> IntArray:
    order = np.argsort(fractions, kind="stable")
    of_group = np.empty(len(order), dtype=np.int64)
    filled = np.zeros(len(SPLITS))
    wanted = np.array(SHARES) * sizes.sum()
    for position, group in enumerate(order):
        split = position if position < len(SPLITS) else int(np.argmin(filled / wanted))
        of_group[group] = split
        filled[split] += sizes[group]
    return of_group


def _fraction(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
