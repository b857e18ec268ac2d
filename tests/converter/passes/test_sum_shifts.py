"""Depthwise blocks run as sums of shifts, and lower to one depthwise convolution."""

import pytest
import torch
from torch import nn

from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import aten, find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.passes.sum_shifts import sum_shifts

SHIFT = torch.ops.asl.active_shift.default


class Tied(nn.Module):
    """A depthwise convolution that is called twice, the second time at half the resolution."""

    def __init__(self, outputs: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, outputs, 5, padding=2, groups=6, bias=outputs == 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y if y.shape[1] != 6 else self.conv(nn.functional.max_pool2d(y, 2))


def _block(each: int, outputs: int, *, bias: bool) -> Block:
    return Block(
        source=torch.arange(6).repeat_interleave(each),
        shift=torch.rand(6 * each, 2) * 2 - 1,
        weight=torch.randn(outputs, each),
        bias=torch.randn(outputs) if bias else None,
    )


@pytest.mark.parametrize("each", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_sum_of_shifts_is_the_block(each: int, bias: bool) -> None:
    gm = graph_module(export_model(Tied(), (torch.randn(2, 6, 12, 12),)))
    converted = replace_sites(gm, {"conv": _block(each, 6, bias=bias)})
    summed, lowered = sum_shifts(converted), lower(converted)
    x = torch.randn(3, 6, 16, 10)
    with torch.no_grad():
        for form in (summed, lowered):
            torch.testing.assert_close(form(x), converted(x), rtol=1e-5, atol=1e-5)
    assert not [node for node in summed.graph.nodes if node.target is aten.conv2d.default]
    assert sum(node.target is SHIFT for node in summed.graph.nodes) == 2 * each
    assert len([name for name in summed.state_dict() if "shift" in name]) == each, "tied calls share their tensors"
    # Shifts within one pixel span 3x3, whatever the kernel was.
    (name,) = [name for name in lowered.state_dict() if name.endswith("taps")]
    assert lowered.state_dict()[name].shape == (6, 1, 3, 3)


def test_several_outputs_a_channel_stay_a_grouped_convolution_and_lower_to_one() -> None:
    gm = graph_module(export_model(Tied(outputs=12), (torch.randn(2, 6, 12, 12),)))
    (site,), _ = find_sites(gm)
    assert site.row_groups == 6
    converted = replace_sites(gm, {"conv": _block(2, 12, bias=False)})
    x = torch.randn(2, 6, 9, 9)
    with torch.no_grad():
        expected = converted(x)
        assert torch.equal(sum_shifts(converted)(x), expected)
        lowered = lower(converted)
        torch.testing.assert_close(lowered(x), expected, rtol=1e-5, atol=1e-5)
    assert sum(node.target is aten.conv2d.default for node in lowered.graph.nodes) == 1
