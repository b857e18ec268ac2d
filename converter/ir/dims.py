"""Dynamic sizes: exporting with as many as torch can keep, and declaring a program's sizes again on re-export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from aslconvert.converter.ir.quiet import quiet

IMAGE_MULTIPLES = (1, 2, 4, 8, 16, 32)
"""Image sizes are tried as multiples of these: nets that halve and double the image need one of them."""


def export_dynamic(model: nn.Module, example: tuple[Any, ...]) -> ExportedProgram:
    """Export with dynamic batch and image sizes, giving up image sizes first and the batch last.

    ``model`` is in eval mode. Raises torch's own error when even fixed sizes do not export.
    """
    # A batch of one would be baked in as a constant.
    wide = _batch_of_two(example)
    for inputs, shapes in _attempts(wide if wide is not None else example, dynamic=wide is not None):
        try:
            with quiet():
                return torch.export.export(model, _fresh(inputs), dynamic_shapes=shapes)
        except Exception:  # noqa: S112  each attempt asks for less; the last one below reports
            continue
    with quiet():
        return torch.export.export(model, _fresh(example))


def dynamic_axes(program: ExportedProgram) -> dict[str, tuple[int, ...]]:
    """Per user input, the axes whose size may change."""
    return {
        name: tuple(axis for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt))
        for name, value in _placeholders(program)
        if isinstance(value, Tensor)
    }


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


def dynamic_shapes(program: ExportedProgram) -> Any:
    """The ``dynamic_shapes`` argument that gives a re-export the same sizes, names and ranges as ``program``.

    Nested like the program's inputs: ``(args, kwargs)`` flattened into the order of ``example_inputs``.
    """
    dims: dict[sympy.Symbol, Any] = {}
    leaves = [
        {axis: _dim(size, program, dims) for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt)}
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
    names = list(program.module_call_graph[0].signature.forward_arg_names or [])  # type: ignore[union-attr]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _placeholders(program: ExportedProgram) -> list[tuple[str, Any]]:
    inputs = set(program.graph_signature.user_inputs)
    return [(n.name, n.meta.get("val")) for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs]


def _dim(size: torch.SymInt, program: ExportedProgram, dims: dict[sympy.Symbol, Any]) -> Any:
    expression = size.node.expr
    symbols = sorted(expression.free_symbols, key=str)
    if len(symbols) != 1:
        return Dim.AUTO
    symbol = symbols[0]
    if symbol not in dims:
        bounds = program.range_constraints.get(symbol)
        # An unbounded end is torch's own int_oo, which is no Integer.
        low, high = (
            int(bound) if isinstance(bound, sympy.Integer) else None
            for bound in ((bounds.lower, bounds.upper) if bounds is not None else (None, None))
        )
        dims[symbol] = Dim(str(symbol), min=low, max=high)
    factor, rest = expression.coeff(symbol, 1), expression.coeff(symbol, 0)
    if not (factor.is_integer and rest.is_integer and sympy.expand(factor * symbol + rest - expression) == 0):
        return Dim.AUTO
    dim = dims[symbol]
    if int(factor) != 1:
        dim = int(factor) * dim
    return dim + int(rest) if int(rest) else dim


def _batch_of_two(example: tuple[Any, ...]) -> tuple[Any, ...] | None:
    tensors = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    batches = {int(tensor.shape[0]) if tensor.dim() else None for tensor in tensors}
    if len(batches) != 1 or None in batches:
        return None
    if batches != {1}:
        return example
    return pytree.tree_map(lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf, example)


def _attempts(example: tuple[Any, ...], *, dynamic: bool) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if not dynamic:
        return
    images = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor) and leaf.dim() == 4]
    sizes = {tuple(int(size) for size in image.shape[2:]) for image in images}
    if len(sizes) == 1:
        height, width = next(iter(sizes))
        for multiple in IMAGE_MULTIPLES:
            # Sizes of one multiple are baked in like a batch of one.
            if height % multiple == width % multiple == 0 and min(height, width) >= 2 * multiple:
                yield example, _declare(example, _image_dim("height", multiple), _image_dim("width", multiple))
    yield example, _declare(example, None, None)


def _image_dim(name: str, multiple: int) -> Any:
    return Dim(name) if multiple == 1 else multiple * Dim(f"{name}_by_{multiple}")


def _declare(example: tuple[Any, ...], height: Any, width: Any) -> Any:
    batch = Dim("batch")

    def declare(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return None
        image = {2: height, 3: width} if leaf.dim() == 4 and height is not None else {}
        return {0: batch, **image}

    return pytree.tree_map(declare, example)


def _fresh(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """New tensors for each attempt: a failed dynamic export leaves marks on the ones it saw."""
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, example)


def example_of(program: ExportedProgram) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example inputs stored in the program, as fresh tensors (args, kwargs)."""
    args, kwargs = program.example_inputs if program.example_inputs is not None else ((), {})
    return _fresh(tuple(args)), dict(zip(kwargs, _fresh(tuple(kwargs.values())), strict=True))
