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

    Ranges and multiples are declared again; where torch does not accept them it finds the multiples itself, and no
    dynamic size is ever lost in silence. Raises InternalError("reexport_failed").
    """
    return _first(gm, example_inputs, kwargs or {}, _ways(dynamic_shapes))[0]


def reexport_like(gm: fx.GraphModule, original: ExportedProgram) -> ExportedProgram:
    """Export ``gm`` with the example inputs and the dynamic sizes of ``original``."""
    return Reexport(original)(gm)


class Reexport:
    """Exports graphs of one original with its example inputs and dynamic sizes.

    It begins with what torch accepted last time: a way of declaring sizes that is refused costs a whole trace.
    """

    def __init__(self, original: ExportedProgram) -> None:
        self._original = original
        self._ways = _ways(declared_shapes(original))

    def __call__(self, gm: fx.GraphModule) -> ExportedProgram:
        """Raises InternalError("reexport_failed")."""
        args, kwargs = example_of(self._original)
        program, index = _first(gm, args, kwargs, self._ways)
        self._ways.insert(0, self._ways.pop(index))
        return program


def _first(
    gm: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any], ways: list[Any]
) -> tuple[ExportedProgram, int]:
    for index, shapes in enumerate(ways):
        program = export_with(gm, args, kwargs, shapes)
        if program is not None:
            return program, index
    raise InternalError("reexport_failed", "A rewritten graph does not export with the sizes that the model had.")


def _ways(shapes: Any) -> list[Any]:
    return [shapes, _unnamed(shapes)]


def _unnamed(shapes: Any) -> Any:
    if shapes is None:
        return None
    return pytree.tree_map(lambda dim: dim if isinstance(dim, int) or dim is None else _hint(dim), shapes)


def _hint(dim: Any) -> Any:
    # Only a plain named dim has bounds of its own: those of a multiple belong to its root.
    if hasattr(dim, "root"):
        return Dim.DYNAMIC
    # An open end is torch's own infinity, which is no int; a lower end of 2 is its way to say "any".
    low, high = (
        end if isinstance(end, int) else None for end in (getattr(dim, "min", None), getattr(dim, "max", None))
    )
    return Dim.DYNAMIC(
        min=low if low is not None and low > 2 else None, max=high if high is not None and high < 2**62 else None
    )
