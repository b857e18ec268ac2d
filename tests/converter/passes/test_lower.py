from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from aslconvert.converter.errors import InternalError
from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import aten, find_sites, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.arrange_sources import arrange_sources
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.fuse import fuse
from aslconvert.converter.passes.lower import depthwise_taps, lower
from aslconvert.converter.passes.replace_sites import replace_sites

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]
Blocks = Callable[..., dict[str, Block]]
SHAPES = {"demosaicker": (1, 3, 30, 26), "resnet18": (1, 3, 65, 71), "unet": (2, 3, 36, 40), "odd": (2, 3, 21, 23)}


def _count(gm: fx.GraphModule, target: object) -> int:
    return sum(node.target is target for node in gm.graph.nodes)


pixels = st.floats(-3, 3, width=32) | st.integers(-3, 3).map(float) | st.sampled_from([-1.5, -0.5, 0.5])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(pixels, pixels, pixels), min_size=1, max_size=6),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.integers(-4, 3)] * 3),
)
def test_a_depthwise_convolution_is_the_shift(
    axes: int, shifts: list[tuple[float, ...]], stride: tuple[int, ...], delta: tuple[int, ...]
) -> None:
    shift, stride, delta = torch.tensor(shifts, dtype=torch.float64)[:, :axes], stride[:axes], delta[:axes]
    x = torch.randn(2, len(shifts), *(9, 8, 7)[:axes], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel, padding, dilation = depthwise_taps(shift, delta)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    lowered = convolve(x, kernel, None, stride, padding, dilation, len(shifts))
    torch.testing.assert_close(lowered, torch.ops.asl.active_shift(x, shift, None, stride, delta), rtol=0, atol=1e-12)


def test_shifts_within_one_pixel_take_a_3x3_kernel_and_a_dilated_convolution_stays_dilated() -> None:
    assert depthwise_taps(torch.rand(5, 2).double() * 2 - 1, (-1, -1))[0].shape == (5, 1, 3, 3)
    kernel, padding, dilation = depthwise_taps(torch.tensor([[-2.0, 0], [0, 2], [2, -2]]).double(), (-1, -1))
    assert (tuple(kernel.shape), padding, dilation) == ((3, 1, 3, 3), [2, 2], [2, 2])


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("rows", [0.5, 1.0, 1.75])
def test_lowered_and_fused_forms_compute_the_same(
    exported: Exported, random_blocks: Blocks, difference: Callable[[Tensor, Tensor], float], name: str, rows: float
) -> None:
    gm = graph_module(exported(name)[1])
    converted = replace_sites(gm, random_blocks(gm, rows=rows))
    folded = fold_batch_norm(converted)
    lowered, fused = lower(folded), fuse(folded)
    x = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = converted(x)
        # The untrained random rows of a deep network amplify rounding; what remains is far below any real error.
        assert difference(lowered(x), expected) <= 2e-5
        assert difference(fused(x), expected) <= 2e-5
    assert not [node for node in lowered.graph.nodes if getattr(node.target, "namespace", "") == "asl"]
    in_groups = [site for site in find_sites(gm)[0] if site.row_groups > 1]
    assert _count(fused, torch.ops.asl.active_shift.default) == len(in_groups)


def _chain(channels: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels, 1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 4, 1),
    )


def _converted(model: nn.Module, source: Tensor) -> fx.GraphModule:
    gm = graph_module(export_model(model, (torch.randn(2, 3, 8, 8),)))
    generator = torch.Generator().manual_seed(0)
    block = Block(
        source=source,
        shift=torch.rand(len(source), 2, generator=generator) * 2 - 1,
        weight=torch.randn(16, len(source), generator=generator),
        bias=torch.randn(16, generator=generator),
    )
    return replace_sites(gm, {"2": block})


def test_a_selection_moves_into_the_producer_when_that_is_cheap() -> None:
    source = torch.randint(16, (20,), generator=torch.Generator().manual_seed(1))
    converted = _converted(_chain(), source)
    lowered = lower(converted)
    assert _count(lowered, aten.index_select.default) == 0
    assert lowered.state_dict()["0.weight"].shape[0] % 16 == 0
    x = torch.randn(1, 3, 9, 9)
    torch.testing.assert_close(lowered(x), converted(x), rtol=1e-5, atol=1e-5)


def test_a_selection_of_what_others_read_too_stays() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = _chain()

        def forward(self, x: Tensor) -> Tensor:
            y = self.body[0](x)
            return self.body[2](y) + y

    gm = graph_module(export_model(Fork(), (torch.randn(2, 3, 8, 8),)))
    block = Block(torch.arange(20) % 5, torch.rand(20, 2), torch.randn(16, 20), None)
    converted = replace_sites(gm, {"body.2": block})
    assert _count(arrange_sources(converted), aten.conv2d.default) == 2
    lowered = lower(converted)
    assert _count(lowered, aten.index_select.default) == 1
    x = torch.randn(1, 3, 9, 9)
    torch.testing.assert_close(lowered(x), converted(x), rtol=1e-5, atol=1e-5)


def test_two_rows_of_every_channel_become_two_branches() -> None:
    model = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 16, 3, padding=1))
    gm = graph_module(export_model(model, (torch.randn(2, 3, 8, 8),)))
    block = Block(torch.tensor([2, 0, 1, 1, 0, 2]), torch.rand(6, 2), torch.randn(16, 6), torch.randn(16))
    converted = replace_sites(gm, {"1": block})
    lowered = lower(converted)
    assert _count(lowered, aten.index_select.default) == 0
    assert _count(lowered, aten.add.Tensor) == 1
    assert {name for name in lowered.state_dict() if "taps" in name} == {"1.taps", "1.taps_2"}
    x = torch.randn(1, 3, 10, 12)
    torch.testing.assert_close(lowered(x), converted(x), rtol=1e-5, atol=1e-5)


def test_a_chain_of_converted_layers_needs_no_copies_and_stays_exact() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), *layers, nn.Conv2d(32, 2, 1))
    gm = graph_module(export_model(model, (torch.randn(2, 3, 8, 8),)))
    for rows in (20, 32, 48, 90):
        blocks = {
            str(index): Block(
                torch.randint(32, (rows,)), torch.rand(rows, 2), torch.randn(32, rows) / 8, torch.randn(32)
            )
            for index in (2, 4, 6)
        }
        converted = replace_sites(gm, blocks)
        lowered = lower(converted)
        assert _count(lowered, aten.index_select.default) == 0
        x = torch.randn(1, 3, 9, 11)
        torch.testing.assert_close(lowered(x), converted(x), rtol=1e-4, atol=1e-4)


def test_shifts_of_zero_vanish() -> None:
    source = torch.arange(16)
    gm = _converted(_chain(), source)
    with torch.no_grad():
        gm.get_parameter("2.shift").zero_()
    lowered = lower(gm)
    assert _count(lowered, aten.conv2d.default) == 3
    x = torch.randn(1, 3, 9, 9)
    torch.testing.assert_close(lowered(x), gm(x), rtol=1e-5, atol=1e-5)


def test_a_relu_joins_the_fused_op_and_a_fused_graph_is_not_lowered() -> None:
    fused = fuse(_converted(_chain(), torch.arange(16)))
    (node,) = [n for n in fused.graph.nodes if n.target is torch.ops.asl.shift_pointwise.default]
    assert node.args[7] is True
    assert _count(fused, aten.relu.default) == 1
    assert fused.state_dict()["2.weight"].shape == (16, 16)
    with pytest.raises(InternalError, match="already fused"):
        lower(fused)
