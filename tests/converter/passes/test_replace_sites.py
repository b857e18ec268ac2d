from collections.abc import Callable

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.errors import InternalError
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.passes.verify import verify

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]
Blocks = Callable[..., dict[str, Block]]


def _block(rows: int, outputs: int, *, bias: bool = True) -> Block:
    return Block(
        source=torch.zeros(rows, dtype=torch.int64),
        shift=torch.rand(rows, 2),
        weight=torch.randn(outputs, rows),
        bias=torch.zeros(outputs) if bias else None,
    )


def test_names_stay_and_the_input_graph_is_untouched(exported: Exported, random_blocks: Blocks) -> None:
    gm = graph_module(exported("resnet18")[1])
    before, code = {name: value.clone() for name, value in gm.state_dict().items()}, gm.code
    converted = replace_sites(gm, random_blocks(gm))
    assert gm.code == code
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())
    state = converted.state_dict()
    assert set(before) <= set(state)
    assert state["layer1.0.conv1.weight"].shape == (8, 10, 1, 1)
    assert state["layer1.0.conv1.shift"].shape == (10, 2)
    assert state["layer1.0.conv1.source"].dtype == torch.int64
    trained = dict(converted.named_parameters())
    assert "layer1.0.conv1.shift" in trained
    assert "layer1.0.conv1.source" not in trained
    assert find_sites(converted)[0] == []


def test_only_the_named_sites_change(exported: Exported, random_blocks: Blocks) -> None:
    gm = graph_module(exported("unet")[1])
    converted = replace_sites(gm, {"bottom.0": random_blocks(gm)["bottom.0"]})
    names = [site.name for site in find_sites(converted)[0]]
    assert names == [site.name for site in find_sites(gm)[0] if site.name != "bottom.0"]


def test_a_shared_weight_at_another_geometry_becomes_its_own_layers_block(
    exported: Exported, random_blocks: Blocks
) -> None:
    gm = graph_module(exported("odd")[1])
    state = replace_sites(gm, random_blocks(gm)).state_dict()
    assert {"twin.shift", "wide.shift", "wide.weight", "wide.bias"} <= set(state)
    assert not [name for name in state if "_2." in name]


def test_tied_sites_stay_tied(exported: Exported, random_blocks: Blocks) -> None:
    gm = graph_module(exported("odd")[1])
    blocks = random_blocks(gm)
    converted = replace_sites(gm, {"tied": blocks["tied"], "loop": blocks["loop"]})
    shifts = [node for node in converted.graph.nodes if node.target is torch.ops.asl.active_shift.default]
    assert [str(node.args[1].target) for node in shifts] == ["twin_asl.shift"] * 2 + ["loop.shift"] * 2
    assert [site.name for site in find_sites(converted)[0]] == [
        *("first", "wide", "even", "kernel", "grouped", "depthwise", "strided")
    ]
    assert "wide.weight" in converted.state_dict(), "the site 'wide' still reads the shared weight"


def test_every_new_parameter_learns(exported: Exported, random_blocks: Blocks) -> None:
    gm = graph_module(exported("odd")[1])
    converted = replace_sites(gm, random_blocks(gm))
    converted(torch.randn(2, 3, 21, 23)).square().mean().backward()
    for name, parameter in converted.named_parameters():
        if name.endswith(".shift") or (parameter.dim() == 4 and not name.startswith("frozen")):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_a_block_decides_about_the_bias(exported: Exported) -> None:
    gm = graph_module(exported("unet")[1])
    with_bias, without = _block(5, 8), _block(5, 8, bias=False)
    assert "down1.0.bias" in replace_sites(gm, {"down1.0": with_bias}).state_dict()
    assert "down1.0.bias" not in replace_sites(gm, {"down1.0": without}).state_dict()


def test_what_does_not_fit_is_refused(exported: Exported) -> None:
    gm = graph_module(exported("unet")[1])
    with pytest.raises(KeyError, match="no conv site is named nowhere"):
        replace_sites(gm, {"nowhere": _block(4, 8)})
    with pytest.raises(ValueError, match="the site has 8 outputs"):
        replace_sites(gm, {"down1.0": _block(4, 7)})
    high = Block(torch.tensor([3]), torch.zeros(1, 2), torch.zeros(8, 1), None)
    with pytest.raises(ValueError, match="outside"):
        replace_sites(gm, {"down1.0": high})


def test_a_broken_graph_is_named(exported: Exported) -> None:
    gm = graph_module(exported("unet")[1])
    node = next(node for node in gm.graph.nodes if node.op == "get_attr")
    node.target = "bottom.0.gone"
    with pytest.raises(InternalError, match=r"bottom\.0\.gone"):
        verify(gm)
    other: fx.GraphModule = graph_module(exported("unet")[1])
    other.bottom.get_submodule("0").weight = nn.Parameter(torch.zeros(32, 3, 3, 3))
    with pytest.raises(InternalError, match="16 channels but its weight reads 3"):
        verify(other)
