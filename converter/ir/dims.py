"""Dynamic sizes: exporting with as many as torch can keep, and declaring a program's sizes again on re-export."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes
from torch.utils import _pytree as pytree

from aslconvert.converter.ir.quiet import quiet

REFINEMENTS = 2
"""How often torch's own suggestions (a minimum, a multiple) are taken before sizes are left to it."""


def export_dynamic(model: nn.Module, example: tuple[Any, ...]) -> ExportedProgram:
    """Export with dynamic batch and image sizes, giving up image sizes first and the batch last.

    ``model`` is in eval mode. Raises torch's own error when even fixed sizes do not export.
    """
    # A batch of one would be baked in as a constant.
    wide = _batch_of_two(example)
    if wide is not None:
        for shapes in (_declare(wide, named=True), _declare(wide, named=False), _batch_only(wide)):
            program = export_with(model, wide, {}, shapes)
            if program is not None and _takes_larger_images(program, wide):
                return program
    with quiet():
        return torch.export.export(model, fresh(example))


def _takes_larger_images(program: ExportedProgram, example: tuple[Any, ...]) -> bool:
    """Whether image sizes that are dynamic on paper are so indeed: twice the example's size is tried.

    A classifier that flattens its image exports with a guard on height times width and runs at few sizes.
    """
    if not any(2 in axes for axes in dynamic_axes(program).values()):
        return True
    twice = pytree.tree_map(lambda leaf: leaf.repeat(1, 1, 2, 2) if _is_image(leaf) else leaf, example)
    try:
        with quiet(), torch.no_grad():
            program.module()(*twice)
    # Guards and operators each fail in their own way; all of it means no.
    except Exception:  # noqa: BLE001
        return False
    return True


def export_with(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> ExportedProgram | None:
    """Export with these dynamic shapes, refined as torch suggests; None when they do not hold."""
    for _ in range(REFINEMENTS + 1):
        try:
            with quiet():
                return torch.export.export(model, fresh(args), fresh(kwargs), dynamic_shapes=shapes)
        # torch has no common error for shapes that do not hold, and a failure here only means to ask for less.
        except Exception as error:  # noqa: BLE001
            shapes = _refined(str(error), shapes)
            if shapes is None:
                return None
    return None


def _refined(message: str, shapes: Any) -> Any:
    _, found, suggestions = message.partition("Suggested fixes:")
    if not found:
        return None
    # torch's own reader stumbles over its closing paragraph and over its infinity.
    suggestions = suggestions.strip("\n").split("\n\n")[0].replace(", max=oo", "")
    try:
        with quiet():
            return refine_dynamic_shapes_from_suggested_fixes(f"{found}\n{suggestions}", shapes)
    # Suggestions are free text; those that torch itself cannot read are none.
    except Exception:  # noqa: BLE001
        return None


def dynamic_axes(program: ExportedProgram) -> dict[str, tuple[int, ...]]:
    """Per user input, the axes whose size may change."""
    return {name: tuple(_symbolic(value)) for name, value in _placeholders(program) if isinstance(value, Tensor)}


def shape_notes(program: ExportedProgram) -> list[str]:
    """Sentences on what is fixed: inputs whose batch or image size cannot change."""
    notes = []
    shapes = {name: value.shape for name, value in _placeholders(program) if isinstance(value, Tensor)}
    for name, axes in dynamic_axes(program).items():
        rank = len(shapes[name])
        if rank and 0 not in axes:
            notes.append(f"Input '{name}' has a fixed batch size of {shapes[name][0]}.")
        if rank == 4 and not {2, 3} <= set(axes):
            fixed = "x".join(str(size) for axis, size in enumerate(shapes[name]) if axis >= 2 and axis not in axes)
            notes.append(f"Input '{name}' has a fixed image size of {fixed}.")
    return notes


def dynamic_shapes(program: ExportedProgram, *, named: bool = True) -> Any:
    """The ``dynamic_shapes`` argument that gives a re-export the same dynamic sizes and ranges as ``program``.

    Named dims also carry which sizes are equal and which are multiples; unnamed ones let torch find that again.
    """
    dims: dict[sympy.Symbol, Any] = {}
    leaves = [
        {axis: _dim(size, program, dims, named) for axis, size in _symbolic(value).items()}
        if isinstance(value, Tensor)
        else None
        for _, value in _placeholders(program)
    ]
    spec = program.call_spec.in_spec
    if spec is None:
        return tuple(leaves)
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return args if not kwargs else _by_name(program, args, kwargs)


def _by_name(program: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = list(program.module_call_graph[0].signature.forward_arg_names or [])
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _placeholders(program: ExportedProgram) -> list[tuple[str, Any]]:
    inputs = set(program.graph_signature.user_inputs)
    return [(n.name, n.meta.get("val")) for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs]


def _symbolic(value: Tensor) -> dict[int, torch.SymInt]:
    sizes: tuple[Any, ...] = tuple(value.shape)
    return {
        axis: size for axis, size in enumerate(sizes) if isinstance(size, torch.SymInt) and not size.node.expr.is_number
    }


def _dim(size: torch.SymInt, program: ExportedProgram, dims: dict[sympy.Symbol, Any], named: bool) -> Any:
    expression = size.node.expr
    symbols = sorted(expression.free_symbols, key=str)
    low, high = _range(program, expression)
    if len(symbols) != 1 or not named:
        return Dim.AUTO(min=low, max=high)
    symbol = symbols[0]
    factor, rest = expression.coeff(symbol, 1), expression.coeff(symbol, 0)
    if not (factor.is_integer and rest.is_integer and sympy.expand(factor * symbol + rest - expression) == 0):
        return Dim.AUTO(min=low, max=high)
    if symbol not in dims:
        low, high = _range(program, symbol)
        dims[symbol] = Dim(str(symbol), min=low, max=high)
    dim = dims[symbol] if int(factor) == 1 else int(factor) * dims[symbol]
    return dim + int(rest) if int(rest) else dim


def _range(program: ExportedProgram, expression: sympy.Expr) -> tuple[int | None, int | None]:
    bounds = program.range_constraints.get(expression)
    if bounds is None:
        return None, None
    # An open end is torch's own int_oo, which is no Integer; a lower end of 2 is its way to say "any".
    low = int(bounds.lower) if isinstance(bounds.lower, sympy.Integer) and bounds.lower > 2 else None
    return low, int(bounds.upper) if isinstance(bounds.upper, sympy.Integer) else None


def _batch_of_two(example: tuple[Any, ...]) -> tuple[Any, ...] | None:
    tensors = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    batches = {int(tensor.shape[0]) if tensor.dim() else None for tensor in tensors}
    if len(batches) != 1 or None in batches:
        return None
    if batches != {1}:
        return example
    doubled: tuple[Any, ...] = pytree.tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf, example
    )
    return doubled


def _declare(example: tuple[Any, ...], *, named: bool) -> Any:
    """Batch and image sizes dynamic: as named dims that hold everywhere, or as what torch finds to hold."""
    images = {tuple(leaf.shape[2:]) for leaf in pytree.tree_leaves(example) if _is_image(leaf)}
    batch = Dim("batch") if named else Dim.AUTO
    height, width = (Dim("height"), Dim("width")) if named and len(images) == 1 else (Dim.AUTO, Dim.AUTO)

    def declare(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        return {0: batch, 2: height, 3: width} if _is_image(leaf) else {0: batch}

    return pytree.tree_map(declare, example)


def _batch_only(example: tuple[Any, ...]) -> Any:
    batch = Dim("batch")
    return pytree.tree_map(lambda leaf: {0: batch} if isinstance(leaf, Tensor) else None, example)


def _is_image(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() == 4


def fresh(example: Any) -> Any:
    """The same inputs as new tensors: a failed dynamic export leaves marks on those it saw."""
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, example)


def example_of(program: ExportedProgram) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example inputs stored in the program, as fresh tensors (args, kwargs)."""
    args, kwargs = program.example_inputs if program.example_inputs is not None else ((), {})
    return fresh(tuple(args)), fresh(dict(kwargs))
