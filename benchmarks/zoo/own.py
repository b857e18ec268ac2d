"""Architectures that no package here has: a one-stage detector, a temporal network, a residual network on video."""

from __future__ import annotations

import torch
from resnet import Block
from torch import Tensor, nn
from torch.nn import functional as F


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inner: int, outer: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outer)
        self.act = nn.SiLU()


class Split(nn.Module):
    """Half of the channels pass through residual pairs of convolutions, all stages are concatenated."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        half = width // 2
        self.enter = ConvUnit(width, width, 1)
        self.pairs = nn.ModuleList(nn.Sequential(ConvUnit(half, half), ConvUnit(half, half)) for _ in range(count))
        self.leave = ConvUnit(half * (2 + count), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, dim=1))
        for pair in self.pairs:
            parts.append(parts[-1] + pair(parts[-1]))
        return self.leave(torch.cat(parts, dim=1))


class Detector(nn.Module):
    """A one-stage detector in the manner of YOLO: three scales, a path down and up, boxes decoded in the graph.

    Gives [N, boxes, 4 + classes] with boxes as (x, y, w, h) in pixels. Sides are multiples of 32.
    """

    def __init__(self, width: int = 16, classes: int = 6) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(ConvUnit(3, w, 3, 2), ConvUnit(w, 2 * w, 3, 2), Split(2 * w, 1))
        self.down3 = nn.Sequential(ConvUnit(2 * w, 4 * w, 3, 2), Split(4 * w, 2))
        self.down4 = nn.Sequential(ConvUnit(4 * w, 4 * w, 3, 2), Split(4 * w, 2))
        self.down5 = nn.Sequential(ConvUnit(4 * w, 4 * w, 3, 2), Split(4 * w, 1))
        self.reduce = ConvUnit(16 * w, 4 * w, 1)
        self.join4, self.join3 = ConvUnit(8 * w, 4 * w), ConvUnit(8 * w, 4 * w)
        self.back4, self.back5 = ConvUnit(4 * w, 4 * w, 3, 2), ConvUnit(4 * w, 4 * w, 3, 2)
        self.heads = nn.ModuleList(
            nn.Sequential(ConvUnit(4 * w, 4 * w), nn.Conv2d(4 * w, 4 + classes, 1)) for _ in range(3)
        )

    def forward(self, image: Tensor) -> Tensor:
        low = self.down3(self.stem(image))
        middle = self.down4(low)
        high = self.down5(middle)
        pools = [high]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, stride=1, padding=2))
        high = self.reduce(torch.cat(pools, dim=1))
        middle = self.join4(torch.cat([F.interpolate(high, scale_factor=2.0, mode="nearest"), middle], dim=1))
        low = self.join3(torch.cat([F.interpolate(middle, scale_factor=2.0, mode="nearest"), low], dim=1))
        middle = middle + self.back4(low)
        high = high + self.back5(middle)
        scales = zip(self.heads, (low, middle, high), (8, 16, 32), strict=True)
        return torch.cat([_decode(head(x), step) for head, x, step in scales], dim=1)


def _decode(raw: Tensor, step: int) -> Tensor:
    rows = torch.arange(raw.shape[2], device=raw.device, dtype=raw.dtype)
    columns = torch.arange(raw.shape[3], device=raw.device, dtype=raw.dtype)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
    centre = (raw[:, :2].sigmoid() + grid) * step
    size = raw[:, 2:4].clamp(max=4.0).exp() * step
    return torch.cat([centre, size, raw[:, 4:].sigmoid()], dim=1).flatten(2).transpose(1, 2)


class TemporalBlock(nn.Module):
    """Two causal dilated convolutions with weight norm, and the input added."""

    def __init__(self, inner: int, outer: int, dilation: int) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.reach = 2 * dilation
        self.first = norm(nn.Conv1d(inner, outer, 3, dilation=dilation))
        self.second = norm(nn.Conv1d(outer, outer, 3, dilation=dilation))
        self.match = nn.Conv1d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(F.pad(x, (self.reach, 0))))
        y = F.relu(self.second(F.pad(y, (self.reach, 0))))
        return F.relu(y + self.match(x))


class Tcn(nn.Module):
    """A temporal convolutional network: [N, channels, T] to a class score at each step."""

    def __init__(self, channels: int = 8, width: int = 24, classes: int = 5) -> None:
        super().__init__()
        sizes = [channels, width, width, width, width]
        self.blocks = nn.Sequential(*(TemporalBlock(sizes[i], sizes[i + 1], 2**i) for i in range(4)))
        self.head = nn.Conv1d(width, classes, 1)

    def forward(self, signal: Tensor) -> Tensor:
        return self.head(self.blocks(signal))


class R3d(nn.Module):
    """R3D-18 at any width (64 is the original): [N, 3, T, H, W] to class scores."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(width), nn.ReLU()
        )
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    Block(sizes[i], sizes[i + 1], 1 if i == 0 else 2, axes=3),
                    Block(sizes[i + 1], sizes[i + 1], 1, axes=3),
                )
                for i in range(4)
            )
        )
        self.fc = nn.Linear(sizes[-1], classes)

    def forward(self, video: Tensor) -> Tensor:
        return self.fc(self.layers(self.stem(video)).mean(dim=(2, 3, 4)))


class Traps(nn.Module):
    """Everything that a reader of graphs may stumble over: see the comments."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        w = width
        self.mirror = nn.Conv2d(3, w, 3, padding=1, padding_mode="reflect")
        # Three calls of one weight, one of them with another geometry.
        self.twin, self.tied, self.wide = (nn.Conv2d(w, w, 3, padding=p, dilation=p) for p in (1, 1, 2))
        self.tied.weight, self.tied.bias, self.wide.weight = self.twin.weight, self.twin.bias, self.twin.weight
        self.loop = nn.Conv2d(w, w, (1, 7), padding=(0, 3), padding_mode="circular")
        self.even = nn.Conv2d(w, w, (2, 4), padding="same", dilation=(1, 2))
        self.kernel = nn.Parameter(torch.randn(w, w, 3, 3) * 0.1)
        self.grouped = nn.Conv2d(w, w, 3, padding=1, groups=2, padding_mode="replicate")
        self.depthwise = nn.Conv2d(w, w, 5, padding=2, groups=w)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(w, w, 3, padding=1))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(w, w, 3, padding=1))
        self.frozen = nn.Conv2d(w, w, 3, padding=1)
        self.branch = nn.Conv2d(w, w, 3, padding=1)
        self.gate = nn.Linear(w, w * 9)
        self.strided = nn.Conv2d(w, 6, 3, stride=(2, 3), bias=False)
        self.rise = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.tied(self.twin(self.mirror(x)))) + self.wide(
            x[:, :1].expand(-1, self.wide.in_channels, -1, -1)
        )
        for _ in range(2):
            x = torch.tanh(self.loop(x))
        x = self.even(x) + F.conv2d(x, self.kernel, padding=1)
        x = self.depthwise(self.grouped(x)) + self.normed(x) + self.spectral(x)
        with torch.no_grad():
            x = x + self.frozen(x)
        # A weight that depends on the input is no constant: this convolution must be refused.
        computed = self.gate(x.mean(dim=(2, 3)).mean(dim=0)).reshape(-1, 1, 3, 3)
        x = x + 0.1 * F.conv2d(x, computed, padding=1, groups=x.shape[1])
        x = torch.cond(x.mean() > 0, lambda y: y + self.branch(y), lambda y: y - self.branch(y), (x,))
        return self.rise(self.strided(x))


class Mixer(nn.Module):
    """Only 1x1 convolutions: nothing to convert, and a reason for each."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
