"""Image networks of transformers, built from configurations: nothing is downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from aslconvert.converter.importers.architectures.source import Made


@dataclass(frozen=True)
class Preset:
    """A model class, what its configuration changes of the default, and the side of its images."""

    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    side: int = 224


def _resnet(kind: str, depths: list[int]) -> Preset:
    sizes = [64, 128, 256, 512] if kind == "basic" else [256, 512, 1024, 2048]
    return Preset("ResNetForImageClassification", {"layer_type": kind, "depths": depths, "hidden_sizes": sizes})


def _convnext(model: str, depths: list[int], sizes: list[int]) -> Preset:
    return Preset(model, {"depths": depths, "hidden_sizes": sizes})


PRESETS: dict[str, Preset] = {
    "resnet-18": _resnet("basic", [2, 2, 2, 2]),
    "resnet-34": _resnet("basic", [3, 4, 6, 3]),
    "resnet-50": _resnet("bottleneck", [3, 4, 6, 3]),
    "resnet-101": _resnet("bottleneck", [3, 4, 23, 3]),
    "resnet-152": _resnet("bottleneck", [3, 8, 36, 3]),
    "regnet-y-040": Preset("RegNetForImageClassification"),
    "mobilenet-v1": Preset("MobileNetV1ForImageClassification"),
    "mobilenet-v2": Preset("MobileNetV2ForImageClassification"),
    "convnext-tiny": _convnext("ConvNextForImageClassification", [3, 3, 9, 3], [96, 192, 384, 768]),
    "convnext-small": _convnext("ConvNextForImageClassification", [3, 3, 27, 3], [96, 192, 384, 768]),
    "convnextv2-tiny": _convnext("ConvNextV2ForImageClassification", [3, 3, 9, 3], [96, 192, 384, 768]),
    "efficientnet-b0": Preset(
        "EfficientNetForImageClassification",
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224},
    ),
    "segformer-b0": Preset("SegformerForSemanticSegmentation"),
    "bit-50": Preset("BitForImageClassification"),
    "mobilevit-small": Preset("MobileViTForImageClassification", side=256),
    "poolformer-s12": Preset("PoolFormerForImageClassification"),
}


class Transformers:
    """The presets by name, and any model class on images by its own (``ResNetForImageClassification``)."""

    title = "transformers"
    install = "pip install transformers"

    def names(self) -> Sequence[str]:
        """The presets."""
        return tuple(PRESETS) if _installed() else ()

    def knows(self, name: str) -> bool:
        """Whether it is a preset or reads as a model class."""
        return _installed() and (name in PRESETS or (name.isidentifier() and _is_image_model(name)))

    def build(self, name: str) -> Made:
        """The network with outputs as a plain tuple and weights as transformers initialises them."""
        import transformers

        preset = PRESETS.get(name, Preset(name))
        model_class = getattr(transformers, preset.model)
        configuration = model_class.config_class(**preset.changes)
        side = _side(configuration) if name not in PRESETS else preset.side
        channels = getattr(configuration, "num_channels", 3)
        return plain(model_class(configuration)), (torch.rand(2, channels, side, side),)


def plain(model: Any) -> nn.Module:
    """The same module, whose outputs are tensors: its own output class would tie a saved program to transformers."""
    own = model.forward

    def forward(pixel_values: Tensor) -> Tensor | tuple[Tensor, ...]:
        tensors = tuple(value for value in own(pixel_values).to_tuple() if isinstance(value, Tensor))
        return tensors[0] if len(tensors) == 1 else tensors

    # Set on the instance and not in a wrapper, which would put a prefix before every parameter's name.
    model.forward = forward
    return model  # type: ignore[no-any-return]


def _installed() -> bool:
    return importlib.util.find_spec("transformers") is not None


def _is_image_model(name: str) -> bool:
    import transformers

    try:
        return getattr(getattr(transformers, name, None), "main_input_name", None) == "pixel_values"
    except ImportError:
        # Processors and tokenisers ask for their packages when they are looked at; models do when they are built.
        return False


def _side(configuration: Any) -> int:
    size = getattr(configuration, "image_size", 224)
    return size if isinstance(size, int) else 224
