"""The Bayer demosaicking network of Gharbi et al., as an example of a trained net full of dense 3x3 convolutions.

Architecture: "Deep Joint Demosaicking and Denoising", SIGGRAPH Asia 2016, the Bayer network; parameter names follow
the pretrained weights in the `demosaicnet` package (`data/bayer.pth`), with zero padding so that the size is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

DEPTH = 15
WIDTH = 64


class QuarterResolution(nn.Module):
    """2x2 mosaic cells packed into four channels, then 3x3 convolutions; the last gives 2 * width channels."""

    def __init__(self, *, depth: int, width: int) -> None:
        super().__init__()
        self.depth = depth
        self.pack_mosaic = nn.Conv2d(3, 4, 2, stride=2)
        channels = [4, *([width] * (depth - 1)), 2 * width]
        for index in range(depth):
            conv = nn.Conv2d(channels[index], channels[index + 1], 3, padding=1)
            setattr(self, f"conv{index + 1}", conv)

    def forward(self, mosaic: Tensor) -> Tensor:
        x = self.pack_mosaic(mosaic)
        for index in range(self.depth):
            x = torch.relu(getattr(self, f"conv{index + 1}")(x))
        return x


class FullResolution(nn.Module):
    """Mosaic and upsampled residual together: one 3x3 convolution, then a linear read-out."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.post_conv = nn.Conv2d(6, width, 3, padding=1)
        self.output = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu(self.post_conv(x)))


class Demosaicker(nn.Module):
    """Mosaic [N, 3, H, W] (GRBG, 0..1, zero where a colour was not sampled; H and W even) -> image [N, 3, H, W]."""

    def __init__(self, *, depth: int = DEPTH, width: int = WIDTH) -> None:
        super().__init__()
        self.width = width
        self.main_processor = QuarterResolution(depth=depth, width=width)
        self.residual_predictor = nn.Conv2d(width, 12, 1)
        self.upsampler = nn.ConvTranspose2d(12, 3, 2, stride=2, groups=3)
        self.fullres_processor = FullResolution(width=width)

    def forward(self, mosaic: Tensor) -> Tensor:
        features, masks = self.main_processor(mosaic).split(self.width, dim=1)
        residual = self.upsampler(self.residual_predictor(features * masks))
        return self.fullres_processor(torch.cat([mosaic, residual], dim=1))


def make() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The untrained network and an example input."""
    return Demosaicker().eval(), (torch.rand(2, 3, 64, 64),)


def mosaic(image: Tensor) -> Tensor:
    """Keep of each pixel of ``image`` [..., 3, H, W] the one colour a GRBG sensor sees; the others are zero."""
    kept = torch.zeros_like(image)
    kept[..., 1, 0::2, 0::2] = image[..., 1, 0::2, 0::2]
    kept[..., 0, 0::2, 1::2] = image[..., 0, 0::2, 1::2]
    kept[..., 2, 1::2, 0::2] = image[..., 2, 1::2, 0::2]
    kept[..., 1, 1::2, 1::2] = image[..., 1, 1::2, 1::2]
    return kept


def pretrained() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network with the weights of the `demosaicnet` package, and an example input."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from fetch import DEMOSAICKER, fetch

    model, example = make()
    weights = fetch(DEMOSAICKER)["bayer.pth"]
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model, example
