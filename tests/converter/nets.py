"""Small networks of the shapes that real ones have, with random weights and batch-norm statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def randomise(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Give batch norms statistics that are not 0 and 1, so that folding them is put to the test."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)
            if module.affine:
                module.weight.data.copy_(torch.rand(shape, generator=generator) + 0.5)
                module.bias.data.copy_(torch.randn(shape, generator=generator) * 0.2)
    return model.eval()


class BasicBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inner, outer, 1, stride=stride, bias=False), nn.BatchNorm2d(outer))
            if stride != 1 or inner != outer
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet18(nn.Module):
    """ResNet-18 at any width (64 is the original)."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inner = width
        for index, stride in enumerate((1, 2, 2, 2)):
            outer = width * 2**index
            blocks = nn.Sequential(BasicBlock(inner, outer, stride), BasicBlock(outer, outer, 1))
            setattr(self, f"layer{index + 1}", blocks)
            inner = outer
        self.fc = nn.Linear(inner, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def double(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1),
        nn.BatchNorm2d(outer),
        nn.ReLU(inplace=True),
        nn.Conv2d(outer, outer, 3, padding=1),
        nn.BatchNorm2d(outer),
        nn.LeakyReLU(0.1),
    )


class UNet(nn.Module):
    """Two levels of halving, transposed convolutions up, skips by concatenation; image sizes are multiples of 4."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = double(3, width), double(width, 2 * width)
        self.bottom = double(2 * width, 4 * width)
        self.rise2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up2 = double(4 * width, 2 * width)
        self.rise1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up1 = double(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.up2(torch.cat([second, self.rise2(x)], dim=1))
        x = self.up1(torch.cat([first, self.rise1(x)], dim=1))
        return self.head(x)


class Odd(nn.Module):
    """The traps: tied weights, a loop, F.conv2d, padding modes, dilation, even kernels, groups, a computed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.twin = nn.Conv2d(8, 8, 3, padding=1)
        self.tied = nn.Conv2d(8, 8, 3, padding=1)
        self.tied.weight, self.tied.bias = self.twin.weight, self.twin.bias
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.wide.weight = self.twin.weight
        self.loop = nn.Conv2d(8, 8, (1, 7), padding=(0, 3), padding_mode="circular")
        self.even = nn.Conv2d(8, 8, (2, 4), padding="same", dilation=(1, 2))
        self.kernel = nn.Parameter(torch.randn(8, 8, 3, 3) * 0.1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.frozen = nn.Conv2d(8, 8, 3, padding=1)
        self.point = nn.Conv2d(8, 8, 1)
        self.strided = nn.Conv2d(8, 6, 3, stride=(2, 3), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(torch.relu(self.twin(self.first(x)))) + self.wide(x[:, :1].expand(-1, 8, -1, -1))
        for _ in range(2):
            x = torch.tanh(self.loop(x))
        x = self.even(x) + F.conv2d(x, self.kernel, padding=1)
        x = self.depthwise(self.grouped(x)) + self.normed(x)
        with torch.no_grad():
            y = self.frozen(x)
        return self.strided(self.point(x + y))
