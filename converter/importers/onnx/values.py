"""What flows along the edges of an ONNX graph: tensors, constants, and numbers that are known while tracing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

SMALL = 4096
"""Constants of up to this many elements may take part in arithmetic on shapes, whose results have no more."""

ROUNDED: dict[torch.dtype, Callable[[float], Any]] = {torch.float32: np.float32, torch.float16: np.float16}
"""Types in which numbers must be rounded after each step, as the runtimes do: Python's are of double precision."""

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def is_known(size: object) -> bool:
    """Whether a size is a number already, and not a symbol for one."""
    return isinstance(size, int)


@dataclass(frozen=True)
class Constant:
    """A tensor that the file holds, or that was computed from such ones; ``name`` is its name in the file."""

    name: str
    value: Tensor
    numbers: Host | None

    @staticmethod
    def of(name: str, value: Tensor) -> Constant:
        """``value`` with its numbers read at once, while no tracing hides them, where it is small."""
        return Constant(name, value, Host.read(value) if value.numel() <= SMALL else None)


@dataclass(frozen=True)
class Host:
    """Numbers known while tracing, such as sizes: an object array of int, float, bool, SymInt, SymFloat or SymBool."""

    items: np.ndarray[Any, np.dtype[np.object_]]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        _bound(self.items.shape)

    @staticmethod
    def of(values: Any, dtype: torch.dtype = torch.int64) -> Host:
        """From a number or a (nested) list of numbers."""
        if not isinstance(values, (list, tuple)):
            items = np.empty((), dtype=object)
            items[()] = values
            return Host(items, dtype)
        return Host(np.array(values, dtype=object), dtype)

    @staticmethod
    def read(tensor: Tensor) -> Host:
        """The elements of a real tensor."""
        items = np.empty(tuple(tensor.shape), dtype=object)
        items.reshape(-1)[:] = tensor.detach().cpu().reshape(-1).tolist()
        return Host(items, tensor.dtype)

    def tensor(self) -> Tensor:
        """As a tensor; sizes that are not known yet stay symbolic."""
        flat = self.items.reshape(-1).tolist()
        if all(isinstance(item, (bool, int, float)) for item in flat):
            return torch.tensor(flat, dtype=self.dtype).reshape(self.items.shape)
        parts = [torch.scalar_tensor(item, dtype=self.dtype) for item in flat]
        return parts[0] if self.items.ndim == 0 else torch.stack(parts).reshape(self.items.shape)

    def map(self, function: Callable[..., Any], *others: Host, dtype: torch.dtype | None = None) -> Host:
        """Elementwise, with broadcasting. Raises ValueError for more than SMALL numbers."""
        _bound(np.broadcast_shapes(self.items.shape, *(other.items.shape for other in others)))
        kind = dtype or self.dtype
        lifted = np.frompyfunc(lambda *terms: _rounded(function(*terms), kind), 1 + len(others), 1)
        result = lifted(self.items, *(other.items for other in others))
        return Host(result, kind) if isinstance(result, np.ndarray) else Host.of(result, kind)


def _bound(shape: tuple[int, ...]) -> None:
    if math.prod(shape) > SMALL:
        raise ValueError(f"{math.prod(shape)} numbers are computed as a shape is, {SMALL} are the most.")


def _rounded(number: Any, dtype: torch.dtype) -> Any:
    kind = ROUNDED.get(dtype) if isinstance(number, float) else None
    if kind is None:
        return number
    with np.errstate(over="ignore"):
        return float(kind(number))


def dtype_of(value: Value) -> torch.dtype:
    """The type of the elements."""
    return value.value.dtype if isinstance(value, Constant) else value.dtype


def check_scale(scale: float) -> None:
    """Raises ValueError where no rule for a dynamic size times ``scale`` holds: the size must be a fixed one then."""
    if not rounds_alike(scale):
        raise ValueError(f"a dynamic size times {scale} rounds otherwise in single precision.")


@cache
def rounds_alike(scale: float) -> bool:
    """Whether a size times ``scale`` rounds down and up to the same in double precision as in single.

    The runtimes compute in single precision, symbols for sizes stand for numbers in double. Tried up to 2^14 pixels.
    """
    sizes = np.arange(1, 1 << 14)
    single, double = sizes.astype(np.float32) * np.float32(scale), sizes * scale
    return bool((np.floor(single) == np.floor(double)).all() and (np.ceil(single) == np.ceil(double)).all())


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in ``dtype``; where it has that type already, the exported graph shows no operation."""
    return x if x.dtype == dtype else x.to(dtype)


Value: TypeAlias = Tensor | Constant | Host
"""A tensor of the traced graph, a constant of the file, or numbers known while tracing."""
