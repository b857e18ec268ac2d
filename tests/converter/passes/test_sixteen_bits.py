"""The 16-bit form: the same network but for rounding, as far as the kernel goes, and still one that is exported."""

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.fit.rows import Block
from aslconvert.converter.ir.graph import aten, graph_module
from aslconvert.converter.ir.load import export_model
from aslconvert.converter.passes.fast import fast_form, int16_form
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.fuse import fuse
from aslconvert.converter.passes.mix_as_shift import mix_stride_one
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.passes.sixteen_bits import MOST_ROWS, sixteen_bits

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]
Blocks = Callable[..., dict[str, Block]]
INT16 = torch.ops.asl.shift_pointwise_int16.default
FLOAT = torch.ops.asl.shift_pointwise.default


def _count(gm: fx.GraphModule, target: object) -> int:
    return sum(node.target is target for node in gm.graph.nodes)


def _distance(given: Tensor, expected: Tensor) -> float:
    return float((given - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", ["resnet18", "unet", "demosaicker"])
def test_networks_are_the_same_but_for_rounding(name: str, exported: Exported, random_blocks: Blocks) -> None:
    program = exported(name)[1]
    gm = fold_batch_norm(graph_module(program))
    converted = replace_sites(gm, random_blocks(gm))
    changed = int16_form(converted)
    assert _count(changed, INT16) > 0
    # What is left in float has a stride, or is no two-dimensional image.
    assert all(set(node.args[5]) != {1} for node in changed.graph.nodes if node.target is FLOAT)
    x = program.example_inputs[0][0]
    with torch.no_grad():
        assert 0 < _distance(changed(x), converted(x)) < 2e-3
        assert _distance(fast_form(converted)(x), converted(x)) < 1e-5


class Mixed(nn.Module):
    """1x1 convolutions: plain, strided, with more channels than the kernel takes, and one weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.strided = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 1, stride=2)
        self.wide = nn.Conv2d(MOST_ROWS + 16, 16, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = self.strided(torch.relu(self.plain(self.plain(x)))).mean() + self.wide(y)
        return z


def test_strides_and_too_many_rows_stay_and_a_shared_weight_is_packed_once() -> None:
    inputs = (torch.randn(2, 32, 8, 8), torch.randn(2, MOST_ROWS + 16, 4, 4))
    gm = graph_module(export_model(Mixed().eval(), inputs))
    changed = int16_form(gm)
    assert (_count(changed, INT16), _count(changed, FLOAT), _count(changed, aten.conv2d.default)) == (2, 1, 1)
    assert sum("int16" in name for name, _ in changed.named_buffers()) == 1
    assert not any("plain.weight" in name for name, _ in changed.named_parameters())
    with torch.no_grad():
        assert _distance(changed(*inputs), gm(*inputs)) < 2e-3


def test_weights_that_are_not_finite_stay() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 1)).eval()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.inf
    gm = graph_module(export_model(model, (torch.zeros(1, 16, 4, 4),)))
    assert _count(sixteen_bits(fuse(mix_stride_one(gm))), INT16) == 0


def test_the_form_survives_export_at_other_sizes(exported: Exported, random_blocks: Blocks) -> None:
    program = exported("unet")[1]
    gm = graph_module(program)
    changed = int16_form(replace_sites(gm, random_blocks(gm)))
    x = program.example_inputs[0][0]
    sizes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(changed, (x,), dynamic_shapes=((sizes),)), buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    other = torch.randn(x.shape[0], 3, 48, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(other), changed(other))
