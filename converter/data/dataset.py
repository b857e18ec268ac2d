"""Samples with their groups and splits, read in batches in the model's input order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aslconvert.converter.data.columns import Column, Indices, MappedColumn
from aslconvert.converter.data.inputs import InputSpec
from aslconvert.converter.data.split import SPLITS, IntArray
from aslconvert.converter.errors import UsageError

# The name of an image folder's only column, until the model says what it calls it.
UNNAMED = ""


class Batch(NamedTuple):
    """``inputs`` in the model's order, each [N, ...]; ``groups`` [N] are group numbers of the whole data set."""

    inputs: tuple[Tensor, ...]
    target: Tensor | None
    label: Tensor | None
    groups: IntArray


@dataclass(frozen=True)
class Dataset:
    """Everything read from one source: ``splits`` and ``groups`` hold a number for each sample."""

    source: str
    inputs: Mapping[str, Column]
    target: Column | None
    label: Column | None
    groups: IntArray
    splits: IntArray
    preprocessing: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.groups)

    def split(self, name: str) -> Subset:
        """The samples of one split: calibrate, heal, validate or test."""
        if name not in SPLITS:
            raise UsageError("split", f"No split {name!r}; there are {', '.join(SPLITS)}.")
        return Subset(self, np.flatnonzero(self.splits == SPLITS.index(name)).astype(np.int64))

    @property
    def samples_by_split(self) -> dict[str, int]:
        """Number of samples of each split."""
        return {name: len(self.split(name)) for name in SPLITS}

    @property
    def groups_by_split(self) -> dict[str, int]:
        """Number of groups of each split."""
        return {name: len(np.unique(self.split(name).groups)) for name in SPLITS}

    def for_model(self, specs: Sequence[InputSpec]) -> Dataset:
        """This data with exactly the model's inputs, in its order and of its types.

        Raises:
            UsageError: ``data_missing_input`` when a name is not there, ``data_shape`` when a shape does not fit.
        """
        given = dict(self.inputs)
        if set(given) == {UNNAMED} and len(specs) == 1:
            given = {specs[0].name: given[UNNAMED]}
        wanted = [spec.name for spec in specs]
        if missing := [name for name in wanted if name not in given]:
            have = ", ".join(name or "one unnamed image" for name in given)
            raise UsageError(
                "data_missing_input",
                f"The data lacks {', '.join(missing)}: it gives {have}; the model wants {', '.join(wanted)}.",
            )
        columns = {}
        for spec in specs:
            column = given.pop(spec.name)
            if not spec.accepts(column.shape):
                raise UsageError(
                    "data_shape",
                    f"The data's {spec.name or 'image'} has shape [batch, {', '.join(map(str, column.shape))}], "
                    f"the model wants {spec}.",
                )
            columns[spec.name] = column if column.dtype == spec.dtype else _cast(column, spec.dtype)
        ignored = (f"arrays not used by the model: {', '.join(sorted(given))}",) if given else ()
        return replace(self, inputs=columns, notes=(*self.notes, *ignored))


@dataclass(frozen=True)
class Subset:
    """The samples of ``dataset`` at ``indices``."""

    dataset: Dataset
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def groups(self) -> IntArray:
        """Group number of each sample, [N]."""
        return self.dataset.groups[self.indices]

    def take(self, count: int) -> Subset:
        """At most ``count`` samples, taken from the groups in turn so that few samples still cover many groups.

        In an order of chance, the same every time: what is stored class by class would else give the first classes
        alone, and batches of one class.
        """
        mixed = np.random.default_rng(0).permutation(len(self))
        groups = self.groups[mixed]
        turn = np.zeros(len(groups), dtype=np.int64)
        for group in np.unique(groups):
            members = np.flatnonzero(groups == group)
            turn[members] = np.arange(len(members))
        chosen = np.argsort(turn, kind="stable")[:count]
        return Subset(self.dataset, self.indices[mixed[chosen]])

    def batch(self, positions: Sequence[int] | Indices) -> Batch:
        """The samples at ``positions`` of this subset, in that order."""
        picked = self.indices[np.asarray(positions, dtype=np.int64)]
        data = self.dataset
        return Batch(
            inputs=tuple(column.read(picked) for column in data.inputs.values()),
            target=None if data.target is None else data.target.read(picked),
            label=None if data.label is None else data.label.read(picked),
            groups=data.groups[picked],
        )

    def batches(self, size: int, *, seed: int | None = None, drop_last: bool = False) -> Iterator[Batch]:
        """One pass over the samples, in stored order or shuffled by ``seed``."""
        order = np.arange(len(self)) if seed is None else np.random.default_rng(seed).permutation(len(self))
        for start in range(0, len(order), size):
            positions = order[start : start + size]
            if len(positions) == size or not drop_last:
                yield self.batch(positions)


def _cast(column: Column, dtype: torch.dtype) -> Column:
    return MappedColumn(column, lambda batch: batch.to(dtype), dtype)
