"""Plain 1x1 convolutions on the fused op: the same function, in one op with what follows them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from aslconvert.converter.ir.graph import aten, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.fast import packed_form
from aslconvert.converter.passes.mix_as_shift import mix_as_shift

PACKED = torch.ops.asl.shift_pointwise_packed.default


class Bottleneck(nn.Module):
    """1x1 convolutions of every kind: plain, strided, with a residual, in groups, padded, of few channels."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.few = nn.Conv2d(3, 32, 1)
        self.into, self.out = nn.Conv2d(32, 16, 1, bias=False), nn.Conv2d(16, 32, 1)
        self.down = nn.Conv2d(32, 48, 1, stride=stride)
        self.groups = nn.Conv2d(48, 48, 1, groups=2)
        self.padded = nn.Conv2d(48, 16, 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.few(x)
        x = torch.relu(x + self.out(torch.relu(self.into(x))))
        y: Tensor = self.padded(self.groups(torch.relu(self.down(x))))
        return y


def _count(gm: fx.GraphModule, target: object) -> int:
    return sum(node.target is target for node in gm.graph.nodes)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_plain_1x1_convolutions_join_the_fused_op(stride: int) -> None:
    torch.manual_seed(stride)
    x = torch.randn(2, 3, 13, 16)
    gm = graph_module(export_model(Bottleneck(stride).eval(), (x,)))
    changed = packed_form(gm)
    assert (_count(changed, PACKED), _count(changed, aten.conv2d.default)) == (3, 3)
    # ReLUs and the residual are inside.
    assert _count(changed, aten.relu.default) == _count(changed, aten.add.Tensor) == 0
    with torch.no_grad():
        expected, got = gm(x), changed(x)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert got.is_contiguous()
        other = torch.randn(3, 3, 21, 9)
        torch.testing.assert_close(changed(other), gm(other), rtol=1e-5, atol=1e-5)


def test_other_types_keep_their_convolution() -> None:
    gm = graph_module(export_model(Bottleneck(1).double().eval(), (torch.zeros(1, 3, 8, 8, dtype=torch.float64),)))
    assert _count(mix_as_shift(gm), torch.ops.asl.active_shift.default) == 0


def test_a_shared_weight_serves_every_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.conv(torch.relu(self.conv(x))))

    torch.manual_seed(0)
    x = torch.randn(1, 16, 7, 5)
    gm = graph_module(export_model(Twice().eval(), (x,)))
    with torch.no_grad():
        torch.testing.assert_close(packed_form(gm)(x), gm(x), rtol=1e-5, atol=1e-5)
