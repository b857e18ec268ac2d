"""Weights and inputs on which a comparison says something, although nothing was trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


def smooth_images(shape: tuple[int, ...], *, seed: int) -> Tensor:
    """Random images [N, C, *spatial] of neighbours that are alike, with a little noise, as photos are."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*shape[:2], *(max(size // 8, 2) for size in shape[2:]), generator=generator)
    smooth = F.interpolate(coarse, size=shape[2:], mode=MODES[len(shape) - 2], align_corners=True)
    return smooth + 0.1 * torch.randn(shape, generator=generator)


def make_sane(model: nn.Module, example: Tensor, *, seed: int = 0) -> nn.Module:
    """``model`` in eval mode, with statistics that are neither 0 and 1 nor those of its own activations.

    Batch norms see ``example`` once, so that deep networks neither explode nor vanish; then statistics and affine
    weights are moved at random. Biases and scales that are initialised to (nearly) nothing get values: a branch
    that is multiplied by 1e-6 would hide whatever goes wrong in it.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and float(parameter.abs().max()) < 1e-3:
                parameter.copy_(
                    uniform(parameter, -0.1, 0.1) if not bool(parameter.any()) else uniform(parameter, 0.5, 1)
                )
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
        for norm in norms:
            if norm.affine:
                norm.weight.copy_(uniform(norm.weight, 0.6, 1.2))
                norm.bias.copy_(uniform(norm.bias, -0.3, 0.3))
        model.eval()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        model(example)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
            norm.running_mean += uniform(norm.running_mean, -0.2, 0.2) * norm.running_var.sqrt()
            norm.running_var.mul_(uniform(norm.running_var, 0.7, 1.4)).clamp_(min=1e-3)
    return model
