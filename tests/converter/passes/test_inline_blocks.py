"""no_grad and autocast blocks vanish from the graph; what they computed stays, types included."""

import pytest
import torch
from torch import Tensor, fx, nn

from aslconvert.converter.fit.layerwise import exact_block
from aslconvert.converter.ir.graph import find_sites, graph_module, notes_of
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.inline_blocks import inline_blocks
from aslconvert.converter.passes.prepare import prepare
from aslconvert.converter.passes.replace_sites import replace_sites


class Blocks(nn.Module):
    """Blocks in blocks, with values of both types crossing their borders."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(3, 4, 3, padding=1)
        self.low = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.full = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.frozen(x) + x.shape[2]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = torch.relu(self.norm(self.low(x)))
            with torch.no_grad():
                y = self.inner(y)
            y = torch.cat([y.softmax(1), x], 1)
            with torch.autocast("cpu", enabled=False):
                y = self.full(y.float())
        return y


def test_blocks_in_blocks_compute_the_same_and_their_convolutions_are_sites() -> None:
    model = Blocks().eval()
    gm = graph_module(export_model(model, (torch.randn(2, 3, 8, 8),)))
    assert {refusal.name for refusal in find_sites(gm)[1]} == {"frozen", "low", "inner", "full"}
    before = gm.code
    opened = prepare(gm)
    assert gm.code == before, "passes work on copies"
    sites, refusals = find_sites(opened)
    assert refusals == []
    types = {site.name: site.dtype for site in sites}
    low, full = torch.bfloat16, torch.float32
    assert types == {"frozen": full, "low": low, "inner": low, "full": full}
    x = torch.randn(3, 3, 10, 7)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(opened(x), expected)
        converted = replace_sites(opened, {site.name: exact_block(opened, site) for site in sites})
        # Two of the convolutions round to 8 bits.
        torch.testing.assert_close(converted(x), expected, rtol=0.02, atol=0.02)
    assert "no_grad" in notes_of(opened)[0]
    assert any("autocast" in note for note in notes_of(opened))


def test_a_graph_without_blocks_stays_as_it_is() -> None:
    gm = graph_module(export_model(nn.Conv2d(3, 4, 3), (torch.randn(2, 3, 8, 8),)))
    opened = inline_blocks(gm)
    assert opened.code == gm.code
    assert notes_of(opened) == ()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.cond(x.sum() > 0, self.conv, lambda value: value.bfloat16(), (x,))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_autocast_block_with_a_branch_stays_and_its_convolution_says_why() -> None:
    model = Branching().eval()
    gm = prepare(graph_module(torch.export.export(model, (torch.ones(2, 3, 8, 8),))))
    sites, refusals = find_sites(gm)
    assert sites == []
    assert {refusal.code for refusal in refusals} <= {"control_flow", "autocast"}
    assert len(refusals) == 1
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(gm(x), model(x))


def test_an_operator_of_unknown_precision_keeps_its_block() -> None:
    gm = graph_module(export_model(Blocks().eval(), (torch.randn(2, 3, 8, 8),)))
    blocks = (module for module in gm.children() if isinstance(module, fx.GraphModule))
    node = next(node for block in blocks for node in block.graph.nodes if "relu" in node.name)
    # As if autocast ran the operator in a precision that no cast of its inputs brings about.
    node.meta["dtype"] = torch.float64
    codes = {refusal.name: refusal.code for refusal in find_sites(inline_blocks(gm))[1]}
    assert codes["low"] == "autocast"
