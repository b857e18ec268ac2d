"""model.py is plain PyTorch that gives the variant's outputs, with our kernels and without them."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.errors import InternalError
from aslconvert.converter.export import support
from aslconvert.converter.export.code import model_code, named_tensors, reach
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.kernels import active_shift

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]


def generated(gm: fx.GraphModule, folder: Path) -> ModuleType:
    """The module of ``gm``'s code, in a folder with its weights."""
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in named_tensors(gm).items()}
    save_file(tensors, folder / "weights.safetensors")
    path = folder / "model.py"
    path.write_text(model_code(gm, weights="weights.safetensors"))
    specification = importlib.util.spec_from_file_location("generated", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["resnet18", "unet", "odd"])
def test_the_code_gives_the_outputs_and_the_names_of_the_variant(
    exported: Exported,
    random_blocks: Callable[[fx.GraphModule], dict[str, Block]],
    difference: Callable[[Tensor, Tensor], float],
    tmp_path: Path,
    name: str,
) -> None:
    gm = graph_module(exported(name)[1])
    gm = replace_sites(gm, random_blocks(gm))
    module = generated(gm, tmp_path)
    model = module.load()
    assert set(model.state_dict()) == set(named_tensors(gm))
    x = torch.randn(3, 3, 36, 44)
    with torch.no_grad():
        expected = gm(x.clone())
        assert difference(model(x.clone()), expected) <= 1e-5
        module.kernels = None
        assert difference(model(x.clone()), expected) <= 1e-5


def test_the_code_is_readable(
    exported: Exported, random_blocks: Callable[[fx.GraphModule], dict[str, Block]], tmp_path: Path
) -> None:
    gm = graph_module(exported("resnet18")[1])
    text = model_code(replace_sites(gm, random_blocks(gm)), weights="weights.safetensors")
    body = text.split("class Model")[1]
    assert "self.layer1[0].conv1 = ShiftConv(10, 8, stride=[1, 1], delta=[-1, -1])" in body
    assert "        # layer2.0\n" in body
    assert "x = self.fc(x)" in body
    assert "torch.ops" not in body
    assert max(map(len, text.splitlines())) <= 120


class Containers(nn.Module):
    """Inputs and outputs in containers, a name that is no word of Python, a constant and a shared convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"1x": nn.Conv2d(3, 4, 3, padding=1)})
        self.register_buffer("offset", torch.randn(4, 1, 1))
        self.again = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, pair: tuple[Tensor, Tensor], *, scale: Tensor) -> dict[str, Tensor | list[Tensor]]:
        first, second = pair
        y = self.parts["1x"](first) + self.offset * scale
        z = torch.nn.functional.conv2d(self.again(y), self.again.weight, stride=1)
        return {"y": y, "others": [z, second * 2, torch.tensor([1.0, 2.0])]}


def test_containers_strange_names_and_constants(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = Containers().eval()
    pair, scale = (torch.randn(2, 3, 8, 8), torch.randn(2)), torch.randn(1)
    gm = graph_module(torch.export.export(net, (pair,), {"scale": scale}))
    model = generated(gm, tmp_path).load()
    with torch.no_grad():
        expected, given = net(pair, scale=scale), model(*pair, scale)
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-6)
    assert list(given) == ["y", "others"]
    assert isinstance(model.parts["1x"], nn.Conv2d)


def test_names_of_a_foreign_file_stay_text() -> None:
    assert reach("layer1.0.conv") == "self.layer1[0].conv"
    assert reach("type.weight") == "self['type'].weight"
    assert reach("class.00") == "self['class']['00']"
    foreign = "a'].__import__('os')['b\n"
    assert "__import__" not in compile(reach(foreign), "name", "eval").co_names


def test_what_has_no_plain_form_is_told(tmp_path: Path) -> None:
    gm = graph_module(export_model(nn.Sequential(nn.Conv2d(3, 4, 3)), (torch.randn(2, 3, 8, 8),)))
    conv = next(node for node in gm.graph.nodes if node.op == "call_function")
    conv.target = torch.ops.asl.shift_pointwise.default
    with pytest.raises(InternalError) as caught:
        model_code(gm, weights="weights.safetensors")
    assert caught.value.code == "no_code"


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_shift_of_the_code_is_that_of_the_kernels(axes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "kernels", None)
    generator = torch.Generator().manual_seed(axes)
    x = torch.randn(2, 3, *[7, 6, 5][:axes], generator=generator)
    # NaN at the border must not leak into rows that read beside it.
    x[(0, 0, *[0] * axes)] = float("nan")
    shift = torch.rand(5, axes, generator=generator) * 6 - 3
    shift[0] = torch.round(shift[0])
    source = torch.tensor([2, 0, 0, 1, 2])
    stride, delta = [2, 1, 1][:axes], [0, -1, 1][:axes]
    expected = active_shift(x, shift, source=source, stride=stride, delta=delta)
    given = support.active_shift(x, shift, source, stride, delta)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
