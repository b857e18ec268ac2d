"""What a generated model.py stands on: this file's code is copied into it, so it may know torch alone."""

# --8<-- everything below is copied
from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

kernels: Any
try:
    from aslconvert import kernels
except ImportError:
    kernels = None

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def active_shift(x: Tensor, shift: Tensor, source: Tensor | None, stride: list[int], delta: list[int]) -> Tensor:
    """Row k is channel source[k] of x, sampled at i * stride + shift[k]: bilinear, and zero outside the image.

    x [N, C, *spatial], shift [K, D] in pixels, source [K] or None for k; gives [N, K, *out] with
    out = (size + delta) // stride + 1. Taken from aslconvert's kernels where they are installed.
    """
    if kernels is not None:
        native: Tensor = kernels.active_shift(x, shift, source=source, stride=stride, delta=delta)
        return native
    rows, axes = shift.shape
    channel = torch.arange(rows, device=x.device) if source is None else source
    low = shift.floor()
    parts = []
    for corner in itertools.product((0, 1), repeat=axes):
        index: list[Any] = [slice(None), channel.view(-1, *[1] * axes)]
        inside: Any = True
        weight: Any = 1.0
        for axis, upper in enumerate(corner):
            size = x.shape[2 + axis]
            steps = torch.arange((size + delta[axis]) // stride[axis] + 1, device=x.device) * stride[axis]
            position = low[:, axis, None].long() + upper + steps
            position = position.view(rows, *[-1 if other == axis else 1 for other in range(axes)])
            inside = inside & (position >= 0) & (position < size)
            index.append(position.clamp(0, size - 1))
            share = shift[:, axis] - low[:, axis]
            weight = weight * (share if upper else 1 - share).view(-1, *[1] * axes)
        # What lies outside counts as zero by itself: multiplied by zero, a NaN would stay one.
        parts.append(torch.where(inside, x[tuple(index)], 0) * weight.to(x.dtype))
    return torch.stack(parts).sum(0)


class Block(nn.Module):
    """A named part of the network; ``block[0]`` and ``block["name"]`` reach what has no attribute's name."""

    def __getitem__(self, key: int | str) -> Any:
        for held in (self._modules, self._parameters, self._buffers):
            if str(key) in held:
                return held[str(key)]
        raise KeyError(key)

    def __setitem__(self, key: int | str, value: Any) -> None:
        held = self._modules if isinstance(value, nn.Module) else self._parameters
        held[str(key)] = value


class ShiftConv(nn.Module):
    """An Active Shift Layer of ``rows`` rows and the 1x1 convolution that mixes them to ``outputs`` channels."""

    source: Tensor

    def __init__(
        self,
        rows: int,
        outputs: int,
        *,
        stride: list[int],
        delta: list[int],
        groups: int = 1,
        bias: bool = True,
        dtype: torch.dtype = torch.float32,
        shift_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        axes = len(stride)
        self.stride, self.delta, self.groups = stride, delta, groups
        self.weight = nn.Parameter(torch.empty(outputs, rows // groups, *[1] * axes, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype)) if bias else None
        self.shift = nn.Parameter(torch.empty(rows, axes, dtype=shift_dtype))
        self.register_buffer("source", torch.zeros(rows, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, *spatial] to [N, outputs, *out]."""
        if kernels is not None and self.groups == 1 and not torch.is_grad_enabled():
            weight = self.weight.flatten(1)
            native: Tensor = kernels.shift_pointwise(
                x, self.shift, weight, bias=self.bias, source=self.source, stride=self.stride, delta=self.delta
            )
            return native
        rows = active_shift(x, self.shift, self.source, self.stride, self.delta)
        return CONVOLUTIONS[len(self.stride)](rows, self.weight, self.bias, groups=self.groups)


def read(model: nn.Module, weights: str | Path) -> nn.Module:
    """``model`` with the weights of the safetensors file, in inference mode. Raises RuntimeError where they differ."""
    model.load_state_dict(load_file(weights))
    return model.eval()
