"""What the machine can do at most, as calls to be timed beside the ops: copying the same bytes, and the best GEMM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from shapes import Case
from stopwatch import seconds
from torch import Tensor

GEMM_SIZES = {"cpu": (256, 384, 768, 1280), "cuda": (2048, 4096, 8192)}


def copying(case: Case, *, device: str, dtype: torch.dtype) -> Callable[[], Tensor]:
    """A copy that reads and writes, together, as many bytes as the layer must: half of them each."""
    half = (case.elements() + 1) // 2
    source, target = (torch.ones(half, device=device, dtype=dtype) for _ in range(2))
    return partial(torch.ops.aten.copy_.default, target, source)


def gemm(*, device: str, dtype: torch.dtype) -> tuple[Callable[[], Tensor], int]:
    """The square matrix product with the highest rate in a trial, and its FLOPs, at the current number of threads."""
    best: tuple[float, Callable[[], Tensor], int] | None = None
    for size in GEMM_SIZES[device]:
        left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
        call = partial(torch.mm, left, right, out=torch.empty_like(left))
        repeats = max(1, 768**3 // size**3)
        took = min(seconds(call, repeats, device) for _ in range(5))
        rate = 2 * size**3 / took
        if best is None or rate > best[0]:
            best = rate, call, 2 * size**3
    if best is None:
        raise RuntimeError(f"no matrix sizes for device {device}")
    return best[1], best[2]


def floors(case: Case, copy_ms: Sequence[float], gemm_ms: Sequence[float], gemm_flops: int) -> list[float]:
    """Milliseconds that no op can undercut, per round: moving the layer's bytes, or computing its FLOPs."""
    return [max(copy, product * case.flops() / gemm_flops) for copy, product in zip(copy_ms, gemm_ms, strict=True)]
