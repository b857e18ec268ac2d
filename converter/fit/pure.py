"""Runs graph nodes without letting an in-place operator (``relu_``, ``+=``) change values that are read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx


def call_pure(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``target(*args, **kwargs)``; tensors that an ATen operator would write to are copied first.

    Later nodes of an exported graph read the operator's result, never the changed argument, so that nothing is lost.
    """
    if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
        writes = [a.alias_info is not None and a.alias_info.is_write for a in target._schema.arguments]
        args = tuple(_copied(value) if write else value for value, write in zip(args, writes, strict=False))
        named = {a.name for a, write in zip(target._schema.arguments, writes, strict=True) if write}
        kwargs = {name: _copied(value) if name in named else value for name, value in kwargs.items()}
    return target(*args, **kwargs)


class PureInterpreter(fx.Interpreter):
    """An interpreter whose recorded values stay what their nodes gave."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call ``target`` on copies of what it would change."""
        return call_pure(target, args, kwargs)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
