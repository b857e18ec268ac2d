"""What a model wants to be fed: the names, shapes and types of its inputs, in order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind


@dataclass(frozen=True)
class InputSpec:
    """One tensor input; ``shape`` counts the batch, and a dimension that may vary is None."""

    name: str
    shape: tuple[int | None, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        dims = ", ".join("*" if n is None else str(n) for n in self.shape)
        return f"{self.name} [{dims}]"

    def accepts(self, sample_shape: tuple[int, ...]) -> bool:
        """Whether a sample of this shape, without the batch, fits."""
        wanted = self.shape[1:]
        return len(wanted) == len(sample_shape) and all(
            want is None or want == have for want, have in zip(wanted, sample_shape, strict=True)
        )


def model_inputs(program: ExportedProgram) -> tuple[InputSpec, ...]:
    """The tensor inputs of ``program`` in the order in which it takes them."""
    named = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and hasattr(spec.arg, "name")
    }
    specs = []
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in named and isinstance(value, torch.Tensor):
            shape = tuple(n if type(n) is int else None for n in value.shape)
            specs.append(InputSpec(name=node.name, shape=shape, dtype=value.dtype))
    return tuple(specs)
