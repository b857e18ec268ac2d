"""What a source of architectures offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

Made = tuple[nn.Module, tuple[Any, ...]]
"""A network with weights as it was initialised, and example inputs."""


class Source(Protocol):
    """Names, and the network of each. Where its package is missing it has no names."""

    title: str
    install: str

    def names(self) -> Sequence[str]:
        """Every name, most usual first."""

    def knows(self, name: str) -> bool:
        """Whether `build` takes ``name``; it may take more than `names` lists."""

    def build(self, name: str) -> Made:
        """The network called ``name``. May raise whatever its package raises."""
