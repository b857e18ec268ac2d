from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]


def test_every_conv_of_the_odd_net_is_found_or_refused_with_its_reason(exported: Exported) -> None:
    _, program = exported("odd")
    sites, refusals = find_sites(graph_module(program))
    assert {refusal.name: refusal.code for refusal in refusals} == {
        "normed": "computed_weight",
        "frozen": "nested_submodule",
        "point": "pointwise",
    }
    names = [site.name for site in sites]
    assert names[:5] == ["first", "twin", "tied", "wide", "loop"]
    assert names[5].startswith("loop@")
    assert names[6:] == ["even", "kernel", "grouped", "depthwise", "strided"]
    keys = {site.name: site.key for site in sites}
    assert keys["twin"] == keys["tied"]
    assert keys["wide"] != keys["twin"], "another dilation is another function"
    assert keys["loop"] == keys[names[5]]
    assert {site.name: site.row_groups for site in sites if site.groups > 1} == {"grouped": 1, "depthwise": 8}
    assert all(refusal.message.endswith(".") for refusal in refusals)


def test_a_site_tells_its_shapes_and_geometry(exported: Exported) -> None:
    sites, _ = find_sites(graph_module(exported("resnet18")[1]))
    stem, last = sites[0], sites[-1]
    assert stem.name == "conv1"
    assert (stem.input_shape, stem.output_shape) == ((2, 3, 64, 96), (2, 8, 32, 48))
    assert stem.geometry.kernel == (7, 7)
    assert stem.macs == 2 * 8 * 32 * 48 * 3 * 49
    assert (last.name, last.weight_target, last.bias_target) == ("layer4.1.conv2", "layer4.1.conv2.weight", None)
    assert last.output_shape == (2, 64, 2, 3)


def test_the_graph_shares_nothing_with_the_program(exported: Exported) -> None:
    model, program = exported("unet")
    gm = graph_module(program)
    for parameter in gm.parameters():
        parameter.data.zero_()
    assert program.state_dict["head.weight"].abs().max() > 0
    assert set(gm.state_dict()) == set(model.state_dict())


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.conv(x).float()


class Computed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, x.mean((0, 2, 3)).view(1, 4, 1, 1).expand(4, 4, 3, 3))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, self.conv, torch.sin, (x,))


@pytest.mark.parametrize(
    ("model", "shape", "code"),
    [
        (nn.Conv1d(3, 4, 1), (2, 3, 9), "pointwise"),
        (nn.ConvTranspose2d(3, 4, 2, stride=2), (2, 3, 5, 5), "pointwise"),
        (nn.Conv2d(3, 4, 1, stride=2), (2, 3, 6, 6), "pointwise"),
        (nn.Conv2d(3, 4, 3), (3, 7, 7), "unbatched"),
        (nn.Conv2d(3, 4, 3).half(), (2, 3, 7, 7), "dtype"),
        (Autocast(), (2, 3, 7, 7), "autocast"),
        (Computed(), (2, 4, 7, 7), "computed_weight"),
        (Branch(), (2, 3, 7, 7), "control_flow"),
    ],
)
def test_what_is_kept_says_why(model: nn.Module, shape: tuple[int, ...], code: str) -> None:
    dtype = next(model.parameters(), torch.zeros(())).dtype
    with torch.no_grad():
        program = torch.export.export(Wrapped(model.eval()), (torch.zeros(shape, dtype=dtype),))
    sites, refusals = find_sites(graph_module(program))
    assert sites == []
    assert [refusal.code for refusal in refusals] == [code]
    assert "inner" in refusals[0].name or code == "control_flow"


def test_a_program_in_core_aten_is_read_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 2, stride=2))
    program = export_model(model, (torch.zeros(2, 3, 8, 8),)).run_decompositions()
    sites, refusals = find_sites(graph_module(program))
    assert [site.name for site in sites] == ["0"]
    assert sites[0].geometry.padding_before == (1, 1)
    assert [refusal.code for refusal in refusals] == ["pointwise"]
