"""The operators that a graph may call (operators.txt), and how large what they make may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from aslconvert.workers.intake.jsontext import Cursor
from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.refusal import shown

HIGHER = tuple(
    f"torch.ops.higher_order.{name}" for name in ("cond", "wrap_with_autocast", "wrap_with_set_grad_enabled")
)
"""Branches, and blocks without gradients or in another precision: each calls graphs within the graph."""

# Operators whose integers say how many elements come out: the last argument of arange is a step, of others a count.
_COUNTING = frozenset({"arange", "linspace", "logspace", "eye", "range"})
_REPEATING = frozenset({"repeat", "repeat_interleave", "tile", "one_hot", "pixel_shuffle", "upsample"})


@cache
def allowed() -> frozenset[str]:
    """The targets in operators.txt, as they are written in a file."""
    lines = Path(__file__).with_name("operators.txt").read_text("utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def read_target(cursor: Cursor) -> str:
    """The operator a node calls. Raises Refused (``operator_not_allowed``)."""
    target = cursor.value
    if not isinstance(target, str) or (target not in allowed() and target not in HIGHER):
        raise cursor.refused("operator_not_allowed", f"{shown(target)} is not on the list.")
    return target


def base_name(target: str) -> str:
    """``conv2d`` for ``torch.ops.aten.conv2d.default``: what values are called after."""
    parts = target.split(".")
    name = parts[3] if target.startswith("torch.ops.") else parts[-1]
    return name.strip("_") or "value"


def check_size(target: str, arguments: Mapping[str, dict[str, Any]], cursor: Cursor, *, limits: Limits) -> None:
    """Bounds what numbers in the graph make. Raises Refused (``operator_too_large``).

    Sizes that come from the inputs' own are not known here; the process that runs the graph has a limit of memory.
    """
    name = base_name(target)
    for argument in arguments.values():
        _check_list(name, argument, cursor, limits)
    if name in _COUNTING:
        _check_count(arguments, cursor, limits)
    elif name in _REPEATING or name.startswith("upsample"):
        numbers = [_number(argument) or 0 for argument in arguments.values()]
        if not all(abs(number) <= limits.repeats for number in numbers):
            raise cursor.refused("operator_too_large", f"{name} by more than {limits.repeats}.")


def _check_list(name: str, argument: Mapping[str, Any], cursor: Cursor, limits: Limits) -> None:
    """A list of numbers is a shape, a padding or a number of repeats: none multiplies to more than a tensor may be."""
    numbers = argument.get("as_ints") or [n.get("as_int", 1) for n in argument.get("as_sym_ints", ())]
    most = limits.repeats if name in _REPEATING else limits.tensor_elements
    if math.prod(max(1, abs(number)) for number in numbers) > most:
        raise cursor.refused("operator_too_large", f"{name} with the numbers {shown(str(list(numbers)))}.")
    factors = argument.get("as_floats") or ()
    if name.startswith("upsample") and factors:
        is_finite = all(isinstance(factor, float) and factor > 0 for factor in factors)
        if not is_finite or math.prod(factors) > limits.repeats:
            raise cursor.refused("operator_too_large", f"{name} by the factors {shown(str(list(factors)))}.")


def _check_count(arguments: Mapping[str, dict[str, Any]], cursor: Cursor, limits: Limits) -> None:
    numbers = {key: _number(argument) for key, argument in arguments.items()}
    span = max((abs(n) for key, n in numbers.items() if n is not None and key != "step"), default=0.0)
    step = numbers.get("step")
    count = 2 * span / abs(step) if step else span
    if not count <= limits.tensor_elements:
        raise cursor.refused("operator_too_large", f"about {count:.3g} elements in a row.")
    rows = numbers.get("n")
    if rows is not None and rows * (numbers.get("m") or rows) > limits.tensor_elements:
        raise cursor.refused("operator_too_large", "a matrix beyond the limit.")


def _number(argument: Mapping[str, Any]) -> float | None:
    """The number that an argument is, be it where a symbol may stand as well."""
    for symbolic in ("as_sym_int", "as_sym_float"):
        argument = argument.get(symbolic, argument)
    for key in ("as_int", "as_float"):
        if key in argument:
            return float("inf") if isinstance(argument[key], str) else float(argument[key])
    return None
