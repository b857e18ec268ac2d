"""Active shift ops on torch's dispatcher; importing this package registers `torch.ops.asl.*`."""

from aslconvert.kernels.layer import ActiveShift, ShiftPointwise
from aslconvert.kernels.ops import NativeKernelsMissing, active_shift, build_info, has_int16, is_native, shift_pointwise

__all__ = [
    "ActiveShift",
    "NativeKernelsMissing",
    "ShiftPointwise",
    "active_shift",
    "build_info",
    "has_int16",
    "is_native",
    "shift_pointwise",
]
