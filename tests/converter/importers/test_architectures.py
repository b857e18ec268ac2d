"""`arch:NAME`: found by name, built the same each time, and filled strictly from safetensors."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aslconvert.converter.errors import InfrastructureError, ModelRefused
from aslconvert.converter.importers.architectures import of_pytorchcv
from aslconvert.converter.importers.architectures.entry_points import GROUP
from aslconvert.converter.importers.architectures.of_pytorchcv import PytorchCv
from aslconvert.converter.importers.architectures.of_transformers import PRESETS, Transformers
from aslconvert.converter.importers.architectures.registry import _build, list_architectures
from aslconvert.converter.importers.architectures.weights import load_weights
from aslconvert.converter.importers.model import model_name, open_model
from aslconvert.converter.ir.dims import dynamic_axes


def refusal(spec: str) -> ModelRefused:
    with pytest.raises(ModelRefused) as refused:
        open_model(spec)
    return refused.value


def tiny() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    net[3].weight = net[2].weight
    return net, (torch.zeros(2, 3, 9, 9),)


PLUGIN = """
import torch
from torch import nn

def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (torch.zeros(2, 3, 9, 9),)

def broken():
    raise RuntimeError("no such luck")
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that declares two architectures."""
    (tmp_path / "plugin_of_a_test.py").write_text(PLUGIN)
    metadata = tmp_path / "plugin_of_a_test-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-of-a-test\nVersion: 1.0\n")
    entries = "".join(f"{name} = plugin_of_a_test:{name}\n" for name in ("tiny", "broken"))
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}")
    monkeypatch.syspath_prepend(tmp_path)


def test_both_packages_are_listed() -> None:
    names = list_architectures()
    assert set(PRESETS) == set(names["transformers"])
    assert {"resnet18", "vgg16", "unet_cityscapes"} <= set(names["pytorchcv"])
    assert len(names["pytorchcv"]) > 500


def test_random_weights_are_the_same_each_time_and_leave_the_callers_numbers_alone() -> None:
    torch.manual_seed(5)
    first, example = _build("resnet20_cifar10")
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    second, again = _build("pytorchcv/resnet20_cifar10")
    assert torch.equal(example[0], again[0])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_transformers_network_gives_plain_tensors_and_keeps_its_names() -> None:
    net, example = _build("segformer-b0")
    assert example[0].shape == (2, 3, 224, 224)
    with torch.no_grad():
        assert isinstance(net.eval()(torch.rand(1, 3, 64, 64)), torch.Tensor)
    assert any(name.startswith("segformer.") for name in net.state_dict())


@pytest.mark.parametrize("name", ["transformers/ResNetConfig", "transformers/BertModel", "pytorchcv/os", "nonesuch"])
def test_what_is_no_architecture_is_refused(name: str) -> None:
    assert refusal(f"arch:{name}").code == "unknown_architecture"


def test_the_hint_lists_what_there_is() -> None:
    close = refusal("arch:resnet19")
    assert "pytorchcv/resnet18" in close.hint
    assert "segformer-b0" in close.hint
    assert "aslconvert.architectures" in close.hint
    everything = refusal("arch:pytorchcv/").hint
    assert all(f"pytorchcv/{name}" in everything for name in PytorchCv().names())
    assert refusal("arch:").code == "unknown_architecture"


@pytest.mark.usefixtures("plugins")
def test_an_entry_point_is_an_architecture(tmp_path: Path) -> None:
    program = open_model("arch:tiny")
    assert dynamic_axes(program) == {"input": (0, 2, 3)}
    refused = refusal("arch:plugin/broken")
    assert (refused.code, "no such luck" in refused.message) == ("architecture_failed", True)
    weights = tmp_path / "tiny.safetensors"
    save_file({name: tensor + 1 for name, tensor in program.state_dict.items()}, weights)
    state = open_model(f"arch:tiny@{weights}").state_dict
    assert all(torch.equal(state[name], tensor + 1) for name, tensor in program.state_dict.items())


def test_weights_fill_the_network_strictly(tmp_path: Path) -> None:
    net, _ = tiny()
    state = {name: torch.randn_like(tensor.float()) for name, tensor in net.state_dict().items()}
    for name in ("3.weight", "1.num_batches_tracked"):  # tied, and never read
        state.pop(name)
    save_file(state, tmp_path / "whole.safetensors")
    load_weights(net, tmp_path / "whole.safetensors")
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())
    assert torch.equal(net[3].weight, state["2.weight"])
    wrong = {**state, "0.weight": torch.zeros(4, 3, 5, 5), "extra": torch.zeros(1)}
    wrong.pop("1.running_mean")
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(ModelRefused) as refused:
        load_weights(net, tmp_path / "wrong.safetensors")
    assert refused.value.code == "weights_mismatch"
    for part in ("1 missing (1.running_mean)", "1 unexpected (extra)", "0.weight (4, 3, 5, 5) instead of (4, 3, 3, 3)"):
        assert part in refused.value.message


@pytest.mark.parametrize(("content", "code"), [(None, "weights_not_found"), (b"junk" * 9, "weights_unreadable")])
def test_weights_that_cannot_be_read(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert refusal(f"arch:resnet20_cifar10@{path}").code == code


def test_no_file_after_the_sign() -> None:
    assert refusal("arch:resnet20_cifar10@").code == "weights_not_found"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_pytorchcv, "_modules", dict)
    with pytest.raises(InfrastructureError) as missing:
        open_model("arch:pytorchcv/resnet18")
    assert missing.value.code == "missing_package"
    assert "pip install --no-deps pytorchcv" in str(missing.value)
    assert Transformers().names()


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("arch:pytorchcv/resnet18@some/weights.safetensors", "resnet18"),
        ("arch:resnet-18", "resnet-18"),
        ("folder/net.py:make", "make"),
        ("folder/net.onnx", "net"),
    ],
)
def test_every_kind_of_model_has_a_short_name(spec: str, name: str) -> None:
    assert model_name(spec) == name


@pytest.mark.parametrize("name", ["ViTImageProcessorFast", "transformers/ViTImageProcessorFast"])
def test_a_class_that_asks_for_another_package_when_it_is_looked_at(name: str) -> None:
    if importlib.util.find_spec("torchvision") is not None:
        pytest.skip("only without torchvision does the class refuse to be looked at")
    assert refusal(f"arch:{name}").code == "unknown_architecture"
