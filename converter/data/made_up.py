"""Random samples of a model's example shapes, for what depends on shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aslconvert.converter.data.columns import ArrayColumn
from aslconvert.converter.data.dataset import Dataset
from aslconvert.converter.data.inputs import InputSpec
from aslconvert.converter.data.split import SPLITS


def made_up(specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]], *, each: int, seed: int) -> Dataset:
    """``each`` samples for every split: normal noise, or zeros and ones where the model takes integers.

    ``shapes`` are those of the example inputs by name, the batch first.
    """
    draw, count = np.random.default_rng(seed), each * len(SPLITS)
    arrays = {}
    for spec in specs:
        shape = (count, *shapes[spec.name][1:])
        floats = spec.dtype.is_floating_point
        arrays[spec.name] = draw.standard_normal(shape, dtype=np.float32) if floats else draw.integers(0, 2, shape)
    return Dataset(
        source="random numbers",
        inputs={name: ArrayColumn(array) for name, array in arrays.items()},
        target=None,
        label=None,
        groups=np.arange(count, dtype=np.int64),
        splits=np.repeat(np.arange(len(SPLITS), dtype=np.int64), each),
        preprocessing="made up",
    ).for_model(specs)
