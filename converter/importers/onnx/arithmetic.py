"""Elementwise arithmetic, comparison and choice, on tensors and on sizes."""

from __future__ import annotations

import math
import operator as op
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from aslconvert.converter.importers.onnx.call import Call
from aslconvert.converter.importers.onnx.registry import Result, operator
from aslconvert.converter.importers.onnx.values import Host, check_scale, converted, dtype_of

Binary = Callable[[Any, Any], Any]

WHOLE = (int, torch.SymInt)

# torch leaves these without types.
sym_float: Callable[[Any], Any] = torch.sym_float
sym_int: Callable[[Any], Any] = torch.sym_int


def _divide_numbers(a: Any, b: Any) -> Any:
    if not (isinstance(a, WHOLE) and isinstance(b, WHOLE)):
        return a / b
    # Integers are divided towards zero.
    whole: Any = abs(a) // abs(b)  # type: ignore[arg-type]
    return whole if bool(a < 0) == bool(b < 0) else -whole


def _multiply_numbers(a: Any, b: Any) -> Any:
    for size, scale in ((a, b), (b, a)):
        if isinstance(size, torch.SymFloat) and isinstance(scale, float):
            check_scale(scale)
    return a * b


def _divide(a: Any, b: Any) -> Tensor:
    whole = all(not v.is_floating_point() if isinstance(v, Tensor) else isinstance(v, WHOLE) for v in (a, b))
    return torch.div(a, b, rounding_mode="trunc") if whole else torch.div(a, b)


BINARY: dict[str, tuple[Binary, Binary]] = {
    "Add": (op.add, op.add),
    "Sub": (op.sub, op.sub),
    "Mul": (op.mul, _multiply_numbers),
    "Div": (_divide, _divide_numbers),
    "And": (torch.logical_and, op.and_),
    "Or": (torch.logical_or, op.or_),
    "Xor": (torch.logical_xor, op.xor),
}
COMPARISONS: dict[str, Binary] = {
    "Equal": op.eq,
    "Greater": op.gt,
    "GreaterOrEqual": op.ge,
    "Less": op.lt,
    "LessOrEqual": op.le,
}
VARIADIC: dict[str, tuple[Binary, Binary]] = {
    "Max": (torch.maximum, torch.sym_max),
    "Min": (torch.minimum, torch.sym_min),
    "Sum": (op.add, op.add),
}
UNARY: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "Abs": (torch.abs, abs),
    # Python rounds to integers, which the next division would truncate.
    "Ceil": (torch.ceil, lambda number: sym_float(math.ceil(number))),
    "Floor": (torch.floor, lambda number: sym_float(math.floor(number))),
    "Neg": (torch.neg, op.neg),
    "Not": (torch.logical_not, torch.sym_not),
}


def _terms(call: Call) -> tuple[Any, Any]:
    """Both operands, at least one of them a tensor."""
    first, second = call.term(0), call.term(1)
    if not isinstance(first, Tensor) and not isinstance(second, Tensor):
        first = call.tensor(0)
    return first, second


def _register_binary(name: str, on_tensors: Binary, on_numbers: Binary, *, compares: bool = False) -> None:
    @operator(name)
    def rule(call: Call) -> Result:
        hosts = call.hosts()
        if hosts is not None:
            return hosts[0].map(on_numbers, hosts[1], dtype=torch.bool if compares else None)
        first, second = _terms(call)
        if name in ("And", "Or", "Xor"):
            return on_tensors(torch.as_tensor(first), torch.as_tensor(second))  # type: ignore[no-any-return]
        return on_tensors(first, second)  # type: ignore[no-any-return]


for _name, (_tensors, _numbers) in BINARY.items():
    _register_binary(_name, _tensors, _numbers)
for _name, _comparison in COMPARISONS.items():
    _register_binary(_name, _comparison, _comparison, compares=True)


def _register_variadic(name: str, on_tensors: Binary, on_numbers: Binary) -> None:
    @operator(name)
    def rule(call: Call) -> Result:
        hosts = call.hosts()
        if hosts is not None:
            return reduce(lambda a, b: a.map(on_numbers, b), hosts)
        tensors: list[Tensor] = [call.tensor(index) for index in range(len(call.values))]
        result: Tensor = reduce(on_tensors, tensors)
        return result


for _name, (_tensors, _numbers) in VARIADIC.items():
    _register_variadic(_name, _tensors, _numbers)


def _register_unary(name: str, on_tensor: Callable[[Any], Any], on_number: Callable[[Any], Any]) -> None:
    @operator(name)
    def rule(call: Call) -> Result:
        hosts = call.hosts()
        if hosts is not None:
            return hosts[0].map(on_number)
        return on_tensor(call.tensor(0))  # type: ignore[no-any-return]


for _name, (_on_tensor, _on_number) in UNARY.items():
    _register_unary(_name, _on_tensor, _on_number)


@operator("Pow")
def power(call: Call) -> Result:
    """The result has the type of the base, whatever the exponent's is."""
    hosts = call.hosts()
    if hosts is not None:
        base = hosts[0]
        return base.map(lambda a, b: a**b if base.dtype.is_floating_point else sym_int(a**b), hosts[1])
    x, exponent = call.tensor(0), call.term(1)
    whole = isinstance(exponent, int) and exponent >= 0
    if isinstance(exponent, Tensor):
        whole = not exponent.is_floating_point()
    # Integers to another power, as ONNX Runtime has them: computed in double precision and cut off.
    wide = x if whole or x.is_floating_point() else x.double()
    return converted(torch.pow(wide, exponent), x.dtype)


@operator("Mean")
def mean(call: Call) -> Tensor:
    total = reduce(op.add, [call.tensor(index) for index in range(len(call.values))])
    return total / len(call.values)


@operator("Mod", attributes="fmod")
def mod(call: Call) -> Result:
    fmod = bool(call.attribute("fmod", 0))
    hosts = call.hosts()
    if hosts is not None and not fmod:
        return hosts[0].map(op.mod, hosts[1])
    # torch takes a number for the divisor alone.
    first, second = call.tensor(0), call.term(1)
    return torch.fmod(first, second) if fmod else torch.remainder(first, second)


@operator("Where")
def where(call: Call) -> Result:
    hosts = call.hosts()
    if hosts is not None:
        condition, first, second = hosts
        return condition.map(lambda c, a, b: a if c else b, first, second, dtype=first.dtype)
    return torch.where(call.tensor(0), call.tensor(1), call.tensor(2))


@operator("Cast", attributes="to saturate")
def cast(call: Call) -> Result:
    return _cast(call, call.dtype(call.attribute("to", 0)))


@operator("CastLike", attributes="saturate", since=15)
def cast_like(call: Call) -> Result:
    return _cast(call, dtype_of(call.value(1)))


def _cast(call: Call, dtype: torch.dtype) -> Result:
    value = call.value(0)
    if not isinstance(value, Host):
        return converted(call.tensor(0), dtype)
    if dtype.is_floating_point:
        return value.map(sym_float, dtype=dtype)
    return value.map(bool if dtype == torch.bool else sym_int, dtype=dtype)
