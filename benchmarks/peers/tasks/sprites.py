"""Pictures out of packages: animals in ten classes, and digits."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from aslconvert.converter.data.split import assign, group_ids
from aslconvert.converter.errors import UsageError
from peers.tasks.task import import_examples, package_file

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    ("numpy", "dtype"): ("numpy", "dtype"),
}
"""What a pickled array needs, and by which name numpy 2 has it."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UsageError("pickle", f"The file wants {module}.{name}, which is no part of an array.")
        return super().find_class(*ALLOWED[module, name])


def read_pickled_array(path: Path) -> np.ndarray[Any, Any]:
    """The array in a gzipped pickle, read so that nothing but arrays can come out of it.

    Raises:
        UsageError: ``pickle``, where the file asks for anything else.
    """
    with gzip.open(path) as file:
        value = _ArraysOnly(io.BytesIO(file.read())).load()
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise UsageError("pickle", f"{path.name} holds no plain array.")
    return value


def animals() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Silhouettes, uint8 [N, 28, 28], and classes, int64 [N]; pictures that recur are left out.

    Raises:
        InfrastructureError: ``packages_missing``.
    """
    pictures = read_pickled_array(package_file("animal-mnist", "animal_data_version_3.gz"))
    labels = read_pickled_array(package_file("animal-mnist", "animal_label_version_3.gz"))
    first = np.sort(np.unique(pictures.reshape(len(pictures), -1), axis=0, return_index=True)[1])
    return pictures[first], labels[first].astype(np.int64)


def digits() -> np.ndarray[Any, Any]:
    """Digits, uint8 [N, 28, 28]."""
    import_examples()
    from fetch import DIGITS, fetch

    with gzip.open(fetch(DIGITS)["mnist_5k.csv.gz"], "rt") as table:
        rows = np.loadtxt(table, delimiter=",", dtype=np.uint8)
    return rows[:, :-1].reshape(-1, 28, 28)


def split_pictures(pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The split (0 to 3: calibrate, heal, validate, test) of each picture, int64 [N], by its content."""
    return assign(*group_ids([hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures], None))
