"""Every network function of pytorchcv, found without importing any of its modules."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from aslconvert.converter.importers.architectures.source import Made


class PytorchCv:
    """Functions by their own name, such as ``resnet18``; the input is what the network says, else 3x224x224."""

    title = "pytorchcv"
    install = "pip install --no-deps pytorchcv"

    def names(self) -> Sequence[str]:
        """The functions of all modules."""
        return tuple(_modules())

    def knows(self, name: str) -> bool:
        """Whether there is such a function."""
        return name in _modules()

    def build(self, name: str) -> Made:
        """The network without pretrained weights: those would have to be downloaded."""
        module = importlib.import_module(f"pytorchcv.models.{_modules()[name]}")
        net = getattr(module, name)(pretrained=False)
        height, width = getattr(net, "in_size", (224, 224))
        return net, (torch.rand(2, getattr(net, "in_channels", 3), height, width),)


@cache
def _modules() -> dict[str, str]:
    """The module of each network function, read from what the modules export."""
    # Its own list of models imports everything, torchvision included.
    package = importlib.util.find_spec("pytorchcv")
    found: dict[str, str] = {}
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        for path in sorted((Path(folder) / "models").glob("*.py")):
            for name in _exported(path):
                if name[0].islower() and not name.startswith("get_"):
                    found.setdefault(name, path.stem)
    return found


def _exported(path: Path) -> list[str]:
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(statement.value)]
    return []
