"""Torch's table of translations to ONNX, built once a process: torch builds it anew for every program it exports."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

MODULE = "torch.onnx._internal.exporter._registration"


@contextlib.contextmanager
def kept_translations() -> Iterator[None]:
    """Exports inside the block take a copy of the table that the first one of this process built.

    Building it parses the source of some five hundred functions, which takes longer than to export a small network.
    It is a private part of torch: where another version builds it in another way, exports go on as torch does them.
    """
    registry: Any = None
    with contextlib.suppress(ImportError):
        registry = getattr(importlib.import_module(MODULE), "ONNXRegistry", None)
    own = vars(registry).get("from_torchlib") if registry is not None else None
    if not isinstance(own, classmethod):
        yield
        return
    registry.from_torchlib = staticmethod(functools.partial(_copied, registry, own.__func__))
    try:
        yield
    finally:
        registry.from_torchlib = own


def _copied(registry: Any, build: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # Operators of torchvision are in the table only where it was imported by then.
    built = _built(registry, build, args, tuple(sorted(kwargs.items())), "torchvision" in sys.modules)
    table = copy.copy(built)
    table.functions = {target: list(functions) for target, functions in built.functions.items()}
    return table


@functools.cache
def _built(
    registry: Any,
    build: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: tuple[tuple[str, Any], ...],
    with_torchvision: bool,
) -> Any:
    return build(registry, *args, **dict(kwargs))
