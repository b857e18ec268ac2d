"""What a task is, and where its files are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from aslconvert.converter.errors import InfrastructureError
from aslconvert.converter.options import Crop

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
CACHE = ROOT / ".cache" / "peers"
SPLITS = ("calibrate", "heal", "validate", "test")

Loss = Callable[[Any, Tensor], Tensor]
"""(outputs, labels or targets) -> a number"""


@dataclass(frozen=True)
class Task:
    """A trained network in eval mode and the ``.npz`` file of its data.

    ``example`` is what the network is exported with, one tensor an input. ``fixed`` names the modules that pruning
    leaves as they are, since their channels are the network's outputs or are counted in its code. ``metric`` is a name
    or ``file.py:function``; ``loss`` is what the network was trained with, where its metric does not tell.
    """

    name: str
    metric: str
    net: nn.Module
    example: tuple[Tensor, ...]
    data: Path
    fixed: tuple[str, ...]
    crop: Crop | None = None
    loss: Loss | None = None
    note: str = ""


def import_examples() -> None:
    """Makes the scripts in ``examples/`` importable by their names."""
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))


def package_file(package: str, ending: str) -> Path:
    """The installed file of ``package`` whose path ends so; the package itself is not imported.

    Raises:
        InfrastructureError: ``packages_missing``.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if str(file).endswith(ending):
            return Path(str(file.locate()))
    raise InfrastructureError(
        "packages_missing", f"The package {package} is not installed.", hint="`make bench-peers` installs it."
    )


def save_arrays(path: Path, **arrays: Any) -> Path:
    """Write an uncompressed ``.npz`` that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its own name in every process: others may be writing the same.
    partial = path.with_suffix(f".{os.getpid()}.partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)
    return path
