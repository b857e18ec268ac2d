"""Stored inputs and the outputs they must give: what every artifact is compared on after a reload."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from safetensors.torch import save
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aslconvert.converter.errors import InternalError
from aslconvert.converter.export.kinds import KINDS
from aslconvert.converter.ir.dims import example_of
from aslconvert.converter.ir.precision import allowance, run_in_double
from aslconvert.converter.ir.quiet import quiet

LOW_PRECISION_TOLERANCE = 3e-2
"""Allowed difference, relative to the largest output, of bfloat16 and float16: they round at 2^-8 and 2^-11."""


@dataclass(frozen=True)
class Case:
    """One call: the flat inputs of the program (tensors, or plain constants) and its flat tensor outputs.

    ``rounding`` is the greatest difference of any output from the one computed in float64.
    """

    inputs: tuple[Any, ...]
    outputs: tuple[Tensor, ...]
    rounding: float = 0.0


def make_cases(gm: fx.GraphModule, program: ExportedProgram, inputs: tuple[Any, ...] | None = None) -> tuple[Case, ...]:
    """The cases of a variant ``gm``: the given inputs (or the example's), and other sizes where sizes may change.

    ``program`` is the portable export of ``gm`` and decides which other sizes it takes.
    """
    args, kwargs = example_of(program)
    if inputs is not None:
        args = inputs
    cases = [_run(gm, args, kwargs)]
    for sizes in _other_sizes(program):
        resized = _resize(program, args, kwargs, sizes)
        try:
            with quiet(), torch.no_grad():
                program.module()(*resized[0], **resized[1])
        # Sizes that break a guard of the model say nothing about the artifact: the next ones are tried.
        except Exception:  # noqa: BLE001
            continue
        cases.append(_run(gm, *resized))
        break
    return tuple(cases)


def tolerance(kind: str, cases: tuple[Case, ...]) -> float:
    """The allowed absolute difference of an artifact of this kind on these cases.

    It grows for every kind alike where the variant rounds off more than the strictest of them allows.
    """
    largest, low = _largest(cases)
    if low:
        return max(LOW_PRECISION_TOLERANCE * largest, 1e-12)
    return max(KINDS[kind].tolerance * widened(cases) * largest, 1e-12)


def widened(cases: tuple[Case, ...]) -> float:
    """By what factor the allowed differences of a float32 variant grow, since it magnifies what is rounded off."""
    usual = min(kind.tolerance for kind in KINDS.values() if kind.tolerance)
    rounding = max((case.rounding for case in cases), default=0.0) / max(_largest(cases)[0], 1e-12)
    return allowance(usual, rounding) / usual


def _largest(cases: tuple[Case, ...]) -> tuple[float, bool]:
    """The largest output, and whether any has a type of low precision."""
    floats = [output for case in cases for output in case.outputs if output.is_floating_point() and output.numel()]
    largest = max((float(output.abs().nan_to_num(0, 0, 0).max()) for output in floats), default=0.0)
    low = any(output.dtype in (torch.bfloat16, torch.float16) for output in floats)
    return largest, low


def describe(cases: tuple[Case, ...]) -> tuple[bytes, list[dict[str, Any]]]:
    """The safetensors file of the cases, and per case what stands in it: names of tensors, or constants."""
    tensors: dict[str, Tensor] = {}
    index = []
    for number, case in enumerate(cases):
        inputs = []
        for place, value in enumerate(case.inputs):
            if isinstance(value, Tensor):
                name = f"case{number}.input{place}"
                tensors[name] = value.detach().contiguous().clone()
                inputs.append({"tensor": name})
            else:
                inputs.append({"constant": value})
        outputs = [f"case{number}.output{place}" for place in range(len(case.outputs))]
        for name, output in zip(outputs, case.outputs, strict=True):
            tensors[name] = output.detach().contiguous().clone()
        index.append({"inputs": inputs, "outputs": outputs})
    return save(tensors), index


def _run(gm: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Case:
    with torch.no_grad():
        outputs = gm(*args, **kwargs)
    flat = tuple(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))
    if not flat:
        raise InternalError("no_outputs", "The model gives no tensors to compare.")
    exact = run_in_double(gm, args, kwargs)
    pairs = [] if exact is None else list(zip(flat, exact, strict=True))
    rounding = max((float(_off(a, b)) for a, b in pairs if a.is_floating_point() and a.numel()), default=0.0)
    return Case(tuple(pytree.tree_leaves((args, kwargs))), flat, rounding)


def _off(given: Tensor, exact: Tensor) -> Tensor:
    """The greatest finite difference; what float32 cannot hold at all is no rounding."""
    return (given.double() - exact).abs().nan_to_num(0, 0, 0).max()


def _other_sizes(program: ExportedProgram) -> Iterator[dict[sympy.Symbol, int]]:
    """Other values of the program's symbolic sizes, nearest first."""
    symbols = _symbols(program)
    if not symbols:
        return
    for factor, more in ((1, 1), (1, 2), (1, 8), (2, 0), (1, 32)):
        values = {symbol: _clamp(program, symbol, factor * value + more) for symbol, value in symbols.items()}
        if values != symbols:
            yield values
    # Some nets take other batches, but no other image next to them in size.
    first = next(iter(symbols))
    yield {**symbols, first: _clamp(program, first, symbols[first] + 1)}


def _symbols(program: ExportedProgram) -> dict[sympy.Symbol, int]:
    found: dict[sympy.Symbol, int] = {}
    for value in _values(program):
        sizes: tuple[Any, ...] = tuple(value.shape) if isinstance(value, Tensor) else ()
        for size in sizes:
            if isinstance(size, torch.SymInt) and size.node.expr.free_symbols:
                expression = size.node.expr
                symbol = min(expression.free_symbols, key=str)
                solutions = sympy.solve(sympy.Eq(expression, int(size.node.hint)), symbol)
                found.setdefault(symbol, int(solutions[0]) if solutions else int(size.node.hint))
    return found


def _values(program: ExportedProgram) -> list[Any]:
    wanted = set(program.graph_signature.user_inputs)
    return [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder" and n.name in wanted]


def _clamp(program: ExportedProgram, symbol: sympy.Symbol, value: int) -> int:
    bounds = program.range_constraints.get(symbol)
    if bounds is not None and isinstance(bounds.upper, sympy.Integer):
        value = min(value, int(bounds.upper))
    return value


def _resize(
    program: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: dict[sympy.Symbol, int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    resized = [
        _wrap(leaf, [_size(size, sizes) for size in tuple(value.shape)])
        if isinstance(leaf, Tensor) and isinstance(value, Tensor)
        else leaf
        for leaf, value in itertools.zip_longest(leaves, _values(program))
    ]
    again: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_unflatten(resized, spec)
    return again


def _size(size: int | torch.SymInt, sizes: dict[sympy.Symbol, int]) -> int:
    return size if isinstance(size, int) else int(size.node.expr.subs(sizes))


def _wrap(tensor: Tensor, shape: list[int]) -> Tensor:
    """The tensor's own values at another shape, repeated where it is larger: real inputs stay real."""
    for axis, size in enumerate(shape):
        index = torch.arange(size, device=tensor.device) % tensor.shape[axis]
        tensor = tensor.index_select(axis, index)
    return tensor.contiguous()
