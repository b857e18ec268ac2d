"""What the ops do under autocast: the fused ones compute in its type, as the library's 1x1 does.

`active_shift` moves pixels and has no product, so that it has no rule here: it keeps the type of its image, as pooling
does. Shifts keep theirs in every op: a position in eight bits would be off by a sixty-fourth of a pixel from two on.
"""

# torch.library is not annotated.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}
_CAST = {
    "shift_pointwise": ("x", "weight", "bias", "residual"),
    "shift_pointwise_packed": ("x", "packed", "bias", "residual"),
    "shift_pointwise_int16": ("x", "scale", "bias", "residual"),
}


def compute_type(op: str, device: str) -> torch.dtype:
    """The type that autocast gives the op on this kind of device.

    Integer products take and give float32, and on the CPU no op computes in float16: float32 is what is left there.
    """
    wanted = torch.get_autocast_dtype(device)
    if op == "shift_pointwise_int16" or (device == "cpu" and wanted == torch.float16):
        return torch.float32
    return wanted


def register(library: torch.library.Library) -> None:
    """Gives the fused ops their rule for autocast on the CPU and on CUDA."""
    for op, names in _CAST.items():
        for device in _KEYS:
            _register(library, op, names, device)


def _register(library: torch.library.Library, op: str, names: tuple[str, ...], device: str) -> None:
    overload = getattr(torch.ops.asl, op).default
    places = [i for i, argument in enumerate(overload._schema.arguments) if argument.name in names]
    excluded = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    excluded = excluded | torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

    def under_autocast(*args: Any) -> Tensor:
        dtype = compute_type(op, device)
        values = list(args)
        for place in places:
            # A trailing default is not handed on.
            if place < len(values) and _is_cast(values[place]):
                values[place] = values[place].to(dtype)
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            y: Tensor = overload(*values)
        return y

    library.impl(op, under_autocast, _KEYS[device])


def _is_cast(value: object) -> bool:
    """As autocast does everywhere: float64 is asked for and stays, integers are no numbers to compute with."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
