"""Names for parameters: the file's own where it has some, else those of the nodes that use them."""

from __future__ import annotations

import re
from keyword import iskeyword

from torch import nn

from aslconvert.converter.importers.onnx.file import Node

ANONYMOUS = re.compile(r"onnx::|\d+$|val_\d+|.*_output_\d+$|_?const")
"""Names that exporters make up for tensors that have none."""

RESERVED = frozenset(vars(nn.Module())) | {"_constants", "_graph", "_idle", "_paths", "_steps", "run", "settle"}
"""Attributes of a module and of `OnnxModule` beyond those that every module's class has."""


class Names:
    """Gives each tensor a dotted path of its own, valid as the path of a parameter."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def path(self, name: str, role: str, node: Node) -> str:
        """The path of the tensor called ``name`` in the file, first used by ``node`` in ``role``."""
        path = _module_path(node)
        wanted = f"{path}.{role}" if ANONYMOUS.match(name) and path else name
        parts = [_identifier(part) for part in wanted.split(".") if part]
        wanted = ".".join(parts) or role
        # Without dots a name can no longer lie below another tensor's, and a number makes it unique.
        flat, chosen, number = wanted.replace(".", "_"), wanted, 2
        while self._clashes(chosen):
            chosen, number = f"{flat}_{number}", number + 1
        self._taken.add(chosen)
        return chosen

    def _clashes(self, path: str) -> bool:
        # A tensor can neither take another's place nor stand where another one needs a module.
        inside = any(taken.startswith(f"{path}.") for taken in self._taken)
        below = any(path.startswith(f"{taken}.") for taken in self._taken)
        return path in self._taken or inside or below


def _module_path(node: Node) -> str:
    """``/layer1/layer1.0/conv1/Conv`` becomes ``layer1.0.conv1``; a name without a path stays."""
    parts = [part for part in node.name.split("/") if part]
    if len(parts) > 1 and re.sub(r"_\d+$", "", parts[-1]) == node.op:
        parts.pop()
    path: list[str] = []
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()
        path.append(part)
    return ".".join(path)


def _identifier(part: str) -> str:
    clean = re.sub(r"\W", "_", part, flags=re.ASCII)
    # A module's own attributes, such as `forward` or `training`, cannot be parameters.
    return f"{clean}_" if hasattr(nn.Module, clean) or clean in RESERVED or iskeyword(clean) else clean
