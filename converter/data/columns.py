"""Columns: sequences of equally shaped samples that are read by index, so that data need not lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
Indices = np.ndarray[tuple[int], np.dtype[np.int64]]
_CHUNK_BYTES = 32 << 20


class Column(Protocol):
    """``shape`` is one sample's, without the batch; ``dtype`` is what ``read`` returns."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __len__(self) -> int: ...

    def read(self, indices: Indices) -> Tensor:
        """The samples at ``indices``, stacked: [len(indices), *shape]."""
        ...


@dataclass(frozen=True)
class ArrayColumn:
    """Samples along the first axis of an array, which may be memory-mapped."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.array.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return torch.from_numpy(np.empty(0, self.array.dtype)).dtype

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: Indices) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.array[indices]))


@dataclass(frozen=True)
class MappedColumn:
    """A column seen through a function of a batch that keeps the shape of the samples."""

    base: Column
    function: Callable[[Tensor], Tensor]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def __len__(self) -> int:
        return len(self.base)

    def read(self, indices: Indices) -> Tensor:
        return self.function(self.base.read(indices))


def chunks(array: Array) -> Iterator[tuple[int, Array]]:
    """(index of the first sample, block of samples): blocks small enough to hold in memory."""
    step = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield start, np.ascontiguousarray(array[start : start + step])
