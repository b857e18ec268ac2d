"""Architectures that other installed packages offer under the entry-point group `aslconvert.architectures`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from torch import Tensor, nn

from aslconvert.converter.importers.architectures.source import Made

GROUP = "aslconvert.architectures"


class EntryPoints:
    """Each entry point names a function that returns ``(nn.Module, example inputs)``."""

    title = "entry points"
    install = ""

    def names(self) -> Sequence[str]:
        """The entry points' names."""
        return tuple(sorted(_found()))

    def knows(self, name: str) -> bool:
        """Whether a package offers it."""
        return name in _found()

    def build(self, name: str) -> Made:
        """What the function returns. Raises TypeError for anything but a module and its inputs."""
        made = _found()[name].load()()
        if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], nn.Module):
            raise TypeError(f"the entry point '{name}' gave no (nn.Module, example inputs)")
        model, inputs = made
        return model, (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def _found() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
