"""The architectures of the zoo, by name: who defines them, at which width, and the input they are exported with."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from aslconvert.converter.importers.architectures.registry import SOURCES
from zoo import own


class Missing(Exception):
    """The package that defines a network is not installed."""


@dataclass(frozen=True)
class Net:
    """``build`` gives the network as its package initialises it; ``shape`` is the example's, with a batch of 2."""

    name: str
    origin: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    note: str = ""


def _transformers(name: str, side: int = 64) -> Net:
    return Net(name, "transformers", lambda: SOURCES["transformers"].build(name)[0], (2, 3, side, side))


def _pytorchcv(name: str, side: int = 64, **changes: Any) -> Net:
    def build() -> nn.Module:
        _needs("pytorchcv")
        if not changes:
            return SOURCES["pytorchcv"].build(name)[0]
        module = next(module for known, module in _cv_modules().items() if known == name)
        net: nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{module}"), name)(**changes)
        return net

    return Net(name, "pytorchcv", build, (2, 3, side, side), ", ".join(f"{k}={v}" for k, v in changes.items()))


def _cv_modules() -> dict[str, str]:
    from aslconvert.converter.importers.architectures.of_pytorchcv import _modules

    return _modules()


def _vgg() -> nn.Module:
    _needs("pytorchcv")
    from pytorchcv.models.vgg import VGG

    net: nn.Module = VGG(channels=[[16], [32], [64, 64], [64, 64], [64, 64]], use_bn=True, bias=False)
    return net


def _monai() -> nn.Module:
    _needs("monai")
    from monai.networks.nets import UNet

    net: nn.Module = UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2))
    return net


def _torchvision() -> nn.Module:
    _needs("torchvision")
    from torchvision.models import resnet18

    net: nn.Module = resnet18()
    return net


def _needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise Missing(f"{package} is not installed")


_CITY = {"in_size": (96, 96), "num_classes": 19}

NETS: dict[str, Net] = {
    net.name: net
    for net in (
        Net("tcn", "here", own.Tcn, (2, 8, 64)),
        Net("yolo-like", "here", own.Detector, (2, 3, 64, 64)),
        Net("traps", "here", own.Traps, (2, 3, 24, 27)),
        Net("r3d-18", "here", own.R3d, (2, 3, 8, 32, 32), "width 16 instead of 64"),
        Net("pointwise", "here", own.Mixer, (2, 3, 16, 16), "1x1 convolutions only"),
        _transformers("resnet-18"),
        _transformers("mobilenet-v1"),
        _transformers("mobilenet-v2"),
        _transformers("segformer-b0"),
        _transformers("convnext-tiny"),
        _transformers("convnextv2-tiny"),
        _transformers("efficientnet-b0"),
        _transformers("regnet-y-040"),
        _transformers("poolformer-s12"),
        _transformers("mobilevit-small"),
        _transformers("resnet-50"),
        _transformers("bit-50"),
        Net("bn_vgg11", "pytorchcv", _vgg, (2, 3, 224, 224), "16 to 64 channels instead of 64 to 512"),
        _pytorchcv("resnet20_cifar10", 32),
        _pytorchcv("resnet56_cifar10", 32),
        _pytorchcv("preresnet18_wd4", 224),
        _pytorchcv("squeezenet_v1_1", 224),
        _pytorchcv("shufflenetv2_wd2", 224),
        _pytorchcv("mobilenetv3_small_w1", 224),
        _pytorchcv("darknet_tiny", 224),
        _pytorchcv("centernet_resnet18_voc", 128, in_size=(128, 128)),
        _pytorchcv("unet_cityscapes", 96, **_CITY),
        _pytorchcv("linknet_cityscapes", 96, **_CITY),
        _pytorchcv("fastscnn_cityscapes", 128, in_size=(128, 128), num_classes=19, aux=False),
        _pytorchcv("erfnet_cityscapes", 96, **_CITY),
        _pytorchcv("peleenet", 224),
        _pytorchcv("hardnet39ds", 224),
        _pytorchcv("ghostnet", 224),
        _pytorchcv("mnasnet_small", 224),
        _pytorchcv("proxylessnas_cpu", 224),
        _pytorchcv("dla46c", 224),
        _pytorchcv("seresnet10", 224),
        _pytorchcv("resnext14_16x4d", 224),
        _pytorchcv("wrn16_10_cifar10", 32),
        _pytorchcv("densenet121", 224),
        _pytorchcv("hrnet_w18_small_v1", 224),
        _pytorchcv("vovnet27s", 224),
        Net("monai-unet", "monai", _monai, (2, 1, 64, 64)),
        Net("torchvision-resnet18", "torchvision", _torchvision, (2, 3, 64, 64)),
    )
}
