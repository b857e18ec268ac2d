"""Max pools as maxima: the same values, NaN included, at every size; overlapping ones stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aslconvert.converter.export.reexport import reexport_like
from aslconvert.converter.ir.graph import aten, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.pool_as_maxima import pool_as_maxima


def _pools(gm: torch.fx.GraphModule) -> int:
    return sum(node.target is aten.max_pool2d.default for node in gm.graph.nodes)


@settings(max_examples=8, deadline=None)
@given(kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)), height=st.integers(3, 11), width=st.integers(3, 11))
def test_the_same_values(kernel: tuple[int, int], height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    x[0, 0, 0, 0] = torch.nan
    pool = nn.MaxPool2d(kernel)
    gm = pool_as_maxima(graph_module(export_model(pool, (x,))))
    assert _pools(gm) == 0
    assert torch.equal(gm(x).nan_to_num(7.0), pool(x).nan_to_num(7.0))


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, stride=2), nn.MaxPool2d(2, padding=1), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(4)],
)
def test_others_stay(pool: nn.Module) -> None:
    x = torch.randn(2, 3, 9, 9)
    gm = pool_as_maxima(graph_module(export_model(pool, (x,))))
    assert _pools(gm) == 1
    assert torch.equal(gm(x), pool(x))


def test_sizes_stay_dynamic() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)).eval()
    program = export_model(net, (torch.randn(2, 3, 8, 8),))
    again = reexport_like(pool_as_maxima(graph_module(program)), program)
    other = torch.randn(3, 3, 14, 12)
    torch.testing.assert_close(again.module()(other), net(other))
