"""ResNet-18, the same network on shifts and 1x1 convolutions, and an oracle of the latter that shares no kernel."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from aslconvert.kernels import ActiveShift, ShiftPointwise


class Block(nn.Module):
    """Two convolutions of 3 taps an axis beside a shortcut (He et al., 2016), on images or on videos."""

    def __init__(self, inner: int, outer: int, stride: int, axes: int = 2) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if axes == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.conv1 = conv(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = norm(outer)
        self.conv2 = conv(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = norm(outer)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(conv(inner, outer, 1, stride, bias=False), norm(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """[N, 3, H, W] to [N, classes]; width 64 is the original's."""

    def __init__(self, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks: list[nn.Module] = []
        inner = width
        for index, stride in enumerate((1, 2, 2, 2)):
            outer = width * 2**index
            blocks += [Block(inner, outer, stride), Block(outer, outer, 1)]
            inner = outer
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(inner, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return y


class TwoSteps(nn.Module):
    """The shift and a library 1x1 convolution, as the converter's graphs hold them."""

    def __init__(self, block: ShiftPointwise) -> None:
        super().__init__()
        self.rows = ActiveShift(block.shift, source=block.source, stride=block.stride, delta=block.delta)
        self.mix = nn.Conv2d(*block.weight.shape[::-1], 1, bias=False)
        self.mix.weight = nn.Parameter(block.weight.detach().clone()[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mix(self.rows(x))
        return y


class Oracle(nn.Module):
    """The same by grid_sample, whose gradients are torch's own."""

    def __init__(self, block: ShiftPointwise) -> None:
        super().__init__()
        self.shift = nn.Parameter(block.shift.detach().clone())
        self.weight = nn.Parameter(block.weight.detach().clone())
        self.stride = block.stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        y = torch.arange(0, height, self.stride[0]).to(x) + self.shift[:, :1]
        column = torch.arange(0, width, self.stride[1]).to(x) + self.shift[:, 1:]
        y = ((2 * y + 1) / height - 1)[:, :, None].expand(-1, -1, column.shape[1])
        column = ((2 * column + 1) / width - 1)[:, None, :].expand_as(y)
        rows = functional.grid_sample(x.transpose(0, 1), torch.stack([column, y], -1), align_corners=False)
        return torch.einsum("ok,knhw->nohw", self.weight, rows)


def converted(model: nn.Module, *, recompute: bool = False) -> nn.Module:
    """A copy whose 3x3 convolutions are one shifted row a channel and a 1x1; the stem and the shortcuts stay.

    Shifts start uniformly within a pixel, as in the paper: only the work counts here, not what the network knows.
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                shift = torch.rand(conv.in_channels, 2) * 2 - 1
                weight = torch.randn(conv.out_channels, conv.in_channels) * (2 / conv.in_channels) ** 0.5
                setattr(module, name, ShiftPointwise(shift, weight, stride=conv.stride, recompute=recompute))
    return model


def rebuilt(model: nn.Module, kind: type[TwoSteps] | type[Oracle]) -> nn.Module:
    """A copy of a converted model whose blocks are of the other kind."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, block in list(module.named_children()):
            if isinstance(block, ShiftPointwise):
                setattr(module, name, kind(block))
    return model


def shifts_and_rest(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters that are shifts, and all others, each in the model's order."""
    named = list(model.named_parameters())
    is_shift = [name.rsplit(".", 1)[-1] == "shift" for name, _ in named]
    shifts = [p for (_, p), yes in zip(named, is_shift, strict=True) if yes]
    return shifts, [p for (_, p), yes in zip(named, is_shift, strict=True) if not yes]
