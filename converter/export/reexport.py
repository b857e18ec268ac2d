"""A rewritten graph as an exported program again, with the dynamic sizes of the one it came from."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from aslconvert.converter.errors import InternalError
from aslconvert.converter.ir.dims import dynamic_shapes as declared_shapes
from aslconvert.converter.ir.dims import example_of, export_with


def reexport(
    gm: fx.GraphModule,
    example_inputs: tuple[Any, ...],
    dynamic_shapes: Any = None,
    *,
    kwargs: dict[str, Any] | None = None,
) -> ExportedProgram:
    """Export ``gm``; ``dynamic_shapes`` as of ``dims.dynamic_shapes(original)``.

    Ranges and multiples are declared again; where torch does not accept them it finds them itself, and no dynamic
    size is ever lost in silence. Raises InternalError("reexport_failed").
    """
    for shapes in (dynamic_shapes, _unnamed(dynamic_shapes)):
        program = export_with(gm, example_inputs, kwargs or {}, shapes)
        if program is not None:
            return program
    raise InternalError("reexport_failed", "A rewritten graph does not export with the sizes that the model had.")


def reexport_like(gm: fx.GraphModule, original: ExportedProgram) -> ExportedProgram:
    """Export ``gm`` with the example inputs and the dynamic sizes of ``original``."""
    args, kwargs = example_of(original)
    return reexport(gm, args, declared_shapes(original), kwargs=kwargs)


def _unnamed(shapes: Any) -> Any:
    if shapes is None:
        return None
    return pytree.tree_map(lambda dim: dim if isinstance(dim, int) or dim is None else _hint(dim), shapes)


def _hint(dim: Any) -> Any:
    low, high = getattr(dim, "min", None), getattr(dim, "max", None)
    # Only a plain named dim has bounds of its own: those of a multiple belong to its root.
    if not isinstance(low, int) or not isinstance(high, int) or hasattr(dim, "root"):
        return Dim.DYNAMIC
    return Dim.DYNAMIC(min=low if low > 2 else None, max=_finite(high))


def _finite(value: int) -> int | None:
    return value if value < 2**62 else None
