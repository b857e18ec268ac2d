"""Padding of sliding windows as ONNX declares it, for convolutions and pools alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aslconvert.converter.importers.onnx.call import Call
from aslconvert.converter.importers.onnx.refusals import bad_graph
from aslconvert.converter.importers.onnx.values import is_known

AUTO_PAD = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


def padding(
    call: Call, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis, from ``pads`` or ``auto_pad``; ``sizes`` are those of the input.

    Raises ModelRefused (``unsupported_attribute``, ``bad_graph``).
    """
    rank = len(sizes)
    auto = call.require("auto_pad", "NOTSET", *AUTO_PAD)
    if min(*kernel, *stride, *dilation) < 1:
        raise bad_graph(call.node.where, "kernel, strides and dilations must be positive.")
    if auto == "VALID":
        return [0] * rank, [0] * rank
    if auto == "NOTSET":
        pads = call.int_list("pads", 2 * rank, 0)
        if min(pads) < 0:
            raise call.unsupported("negative padding")
        return pads[:rank], pads[rank:]
    before, after = [], []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total: Any = d * (k - 1)
        if s > 1:
            total = torch.sym_max(((size + s - 1) // s - 1) * s + total + 1 - size, 0)  # type: ignore[no-untyped-call]
        smaller = total // 2
        before.append(smaller if auto == "SAME_UPPER" else total - smaller)
        after.append(total - smaller if auto == "SAME_UPPER" else smaller)
    return before, after


def symmetric(before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether torch's own padding argument can say it; symbolic padding counts as not."""
    return all(is_known(b) and is_known(a) and a == b for b, a in zip(before, after, strict=True))


def pad(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """``x`` padded on its last ``len(before)`` axes; left alone where there is nothing to pad."""
    flat = [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
    if all(is_known(size) and size == 0 for size in flat):
        return x
    return F.pad(x, flat, value=value)


def spatial_rank(call: Call, x: Tensor, *, most: int = 3) -> int:
    """The number of spatial axes of ``x`` [N, C, ...]. Raises ModelRefused."""
    rank = x.dim() - 2
    if not 1 <= rank <= most:
        raise bad_graph(call.node.where, f"its input has {x.dim()} axes.")
    return rank
