"""The form in channels_last: residuals fused, weights packed, rows sorted, and the same function."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import aten, find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.channels_last import channels_last
from aslconvert.converter.passes.fast import fast_form, packed_form
from aslconvert.converter.passes.fuse import fuse
from aslconvert.converter.passes.replace_sites import replace_sites

PACKED = torch.ops.asl.shift_pointwise_packed.default


def _nodes(gm: fx.GraphModule, target: object) -> list[fx.Node]:
    return [node for node in gm.graph.nodes if node.target is target]


class Residuals(nn.Module):
    """Every way in which an addition follows a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.third, self.fourth = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.relu(x + self.first(x))
        later = torch.sigmoid(joined)
        plain = self.second(joined) + later
        scaled = torch.add(plain, self.third(plain), alpha=2)
        broadcast = self.fourth(scaled) + scaled.mean((2, 3), keepdim=True)
        return broadcast.reshape(x.shape[0], -1)


def _converted(model: nn.Module, example: Tensor, seed: int = 0) -> fx.GraphModule:
    gm = graph_module(export_model(model.eval(), (example,)))
    sites, _ = find_sites(gm)
    generator = torch.Generator().manual_seed(seed)
    blocks = {}
    for site in sites:
        rows = int(torch.randint(5, 40, (), generator=generator))
        blocks[site.name] = Block(
            source=torch.randint(0, site.in_channels, (rows,), generator=generator),
            shift=torch.rand(rows, 2, generator=generator) * 3 - 1.5,
            weight=torch.randn(site.out_channels, rows, generator=generator) / rows**0.5,
            bias=torch.randn(site.out_channels, generator=generator),
        )
    return replace_sites(gm, blocks)


def test_residuals_join_where_they_are_images_of_the_same_shape() -> None:
    x = torch.randn(2, 16, 9, 8)
    gm = _converted(Residuals(), x)
    fused = fuse(gm)
    nodes = _nodes(fused, torch.ops.asl.shift_pointwise.default)
    assert [(node.args[7], node.args[8] is not None) for node in nodes] == [
        (True, True),
        (False, True),
        (False, False),
        (False, False),
    ]
    torch.testing.assert_close(fused(x), gm(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(channels_last(fast_form(gm))(x), gm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_form_computes_the_same_in_channels_last(seed: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 20, 3, stride=2, padding=1), nn.MaxPool2d(2),
        nn.Conv2d(20, 7, 3, padding=1),
    )  # fmt: skip
    x = torch.randn(2, 3, 21, 18)
    gm = _converted(model, x, seed)
    fast = channels_last(fast_form(gm))
    layouts: list[bool] = []

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.target is PACKED:
                layouts.append(value.is_contiguous(memory_format=torch.channels_last))
            return value

    with torch.no_grad():
        y = Watch(fast).run(x)
    y = y[0] if isinstance(y, tuple) else y
    assert layouts == [True] * 3
    assert y.is_contiguous()
    expected = gm(x)
    torch.testing.assert_close(y, expected[0] if isinstance(expected, tuple) else expected, rtol=1e-4, atol=1e-4)
    for node in _nodes(fast, PACKED):
        source = fast.get_buffer(str(node.args[2].target))  # type: ignore[union-attr]
        windows = source // 16
        assert bool((windows[1:] >= windows[:-1]).all())


def test_views_of_images_become_reshapes() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).view(x.shape[0], 16, -1).sum(1)

    x = torch.randn(2, 16, 5, 6)
    gm = _converted(Flat(), x)
    torch.testing.assert_close(channels_last(fast_form(gm))(x), gm(x), rtol=1e-5, atol=1e-5)


def test_the_packed_form_survives_export() -> None:
    x = torch.randn(2, 16, 9, 8)
    gm = _converted(Residuals(), x)
    program = torch.export.export(channels_last(fast_form(gm)), (x,))
    torch.testing.assert_close(program.module()(x), gm(x), rtol=1e-5, atol=1e-5)


def test_what_has_no_converted_convolution_or_another_type_stays_as_it_is() -> None:
    x = torch.randn(2, 16, 9, 8)
    plain = graph_module(export_model(nn.Conv2d(16, 4, 3).eval(), (x,)))
    assert channels_last(plain) is plain
    double = fuse(_converted(copy.deepcopy(Residuals()).double(), x.double()).double())
    assert _nodes(channels_last(double), PACKED) == []
    assert _nodes(double, aten.clone.default) == []


class Shortcut(nn.Module):
    """A shortcut that reads its input before an activation writes into it (torch.export keeps the order)."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.side = nn.Conv2d(16, 16, kernel, padding=kernel // 2)
        self.main = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.0
        return self.side(x) + self.main(torch.relu_(x))


@pytest.mark.parametrize("kernel", [1, 3])
def test_no_op_is_moved_past_a_write_into_what_it_reads(kernel: int) -> None:
    x = torch.randn(2, 16, 9, 8)
    gm = _converted(Shortcut(kernel), x)
    for form in (fast_form, packed_form):
        torch.testing.assert_close(form(gm)(x), gm(x), rtol=1e-5, atol=1e-5)


class Branches(nn.Module):
    """A view of an image inside a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.one, self.other = nn.Linear(16 * 64, 4), nn.Linear(16 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        parts = (lambda y: self.one(y.view(y.shape[0], -1)), lambda y: self.other(y.view(y.shape[0], -1)))
        return torch.cond(y.mean() > 0.4, *parts, (y,))


def test_views_within_branches_do_not_mind_the_layout() -> None:
    x = torch.randn(2, 3, 8, 8)
    gm = _converted(Branches(), x)
    assert _nodes(packed_form(gm), PACKED)
    torch.testing.assert_close(packed_form(gm)(x), gm(x), rtol=1e-5, atol=1e-5)
