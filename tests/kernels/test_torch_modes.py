"""The ops under autocast, torch.compile, torch.export and AOTInductor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aslconvert.kernels import ActiveShift, ShiftPointwise, reference

OPS = torch.ops.asl
LAYOUTS = [torch.contiguous_format, torch.channels_last]
SOURCE = torch.tensor([0, 3, 3, 1, 2, 0])
SAME = ([1, 1], [-1, -1])
# Torch's compiler imports a module of torch's own that is deprecated.
compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


def _block() -> ShiftPointwise:
    # A shift of 33.3 pixels has no neighbour in bfloat16 that is closer than a twentieth of a pixel.
    shift = torch.randn(6, 2) + 0.01
    shift[4, 1] = 33.3
    return ShiftPointwise(shift, torch.randn(5, 6), torch.randn(5), source=SOURCE)


def _image(layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.randn(2, 4, 9, 40).contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("grad", [False, True])
def test_a_block_under_autocast_computes_in_its_type(
    layout: torch.memory_format, dtype: torch.dtype, grad: bool
) -> None:
    block, x = _block(), _image(layout).to(dtype)
    with torch.no_grad():
        exact = block.double()(x.double())
    block.float()
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.bfloat16
    # The image, the shifted rows and the weight are rounded to eight bits.
    torch.testing.assert_close(y.detach().double(), exact, rtol=3e-2, atol=1e-1)
    if grad:
        y.float().square().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in block.parameters())


def test_fused_ops_under_autocast_cast_all_but_the_shift() -> None:
    block, x, residual = _block(), _image(), torch.randn(2, 5, 9, 40)
    shift, weight, bias = block.shift.detach(), block.weight.detach(), block.bias
    assert bias is not None
    low = [t.detach().bfloat16() for t in (x, weight, bias, residual)]
    expected = OPS.shift_pointwise(low[0], shift, SOURCE, low[1], low[2], *SAME, True, low[3])
    packed = OPS.pack_pointwise(weight)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        # Types that a network under autocast mixes: what comes from a convolution is rounded already, parameters not.
        for image, added in ((x, residual), (low[0], residual), (x, low[3])):
            assert torch.equal(OPS.shift_pointwise(image, shift, SOURCE, weight, bias, *SAME, True, added), expected)
            y = OPS.shift_pointwise_packed(image, shift, SOURCE, packed, 5, bias, *SAME, True, residual=added)
            assert torch.equal(y, expected)
        kept = [t.double() for t in (x, weight, bias)]
        assert OPS.shift_pointwise(kept[0], shift, SOURCE, *kept[1:], *SAME, False).dtype == torch.float64
        with torch.autocast("cpu", enabled=False):
            assert OPS.shift_pointwise(x, shift, SOURCE, weight, bias, *SAME, False).dtype == torch.float32
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        # Nobody computes in float16 on a CPU.
        assert OPS.shift_pointwise(x, shift, SOURCE, weight, bias, *SAME, False).dtype == torch.float32


def test_a_shift_alone_keeps_the_type_of_its_image_under_autocast() -> None:
    layer = ActiveShift(torch.randn(4, 2))
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            assert layer(_image().to(dtype)).dtype == dtype


def test_integer_products_under_autocast_take_and_give_float32() -> None:
    block, x = _block(), _image()
    packed, scale = reference.pack_int16(block.weight.detach())
    arguments = (block.shift.detach(), SOURCE, packed, scale, None, *SAME, False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = OPS.shift_pointwise_int16(x.bfloat16(), *arguments)
    assert torch.equal(y, OPS.shift_pointwise_int16(x.bfloat16().float(), *arguments))
    assert y.dtype == torch.float32


def _trained(model: Any, x: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.float().square().sum(), [x, *parameters])]


@compiles
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_compile_has_no_graph_break_forward_or_backward(layout: torch.memory_format, autocast: bool) -> None:
    model = nn.Sequential(_block(), ActiveShift(torch.rand(5, 2), integer=True))
    x, parameters = _image(layout).requires_grad_(), list(model.parameters())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for actual, expected in zip(_trained(compiled, x, parameters), _trained(model, x, parameters), strict=True):
            tolerance = 5e-2 * float(expected.abs().max()) if autocast else 1e-4
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            assert torch.equal(compiled(x), model(x))


class _Fused(nn.Module):
    """All ops for inference in one graph: packed weights, a residual, and 16-bit integers where they are fast."""

    def __init__(self) -> None:
        super().__init__()
        self.block = _block().requires_grad_(False)
        self.register_buffer("packed", OPS.pack_pointwise(self.block.weight))
        weight, scale = reference.pack_int16(torch.randn(5, 5))
        self.register_buffer("integers", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("last", torch.rand(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        shift, source, bias = self.block.shift, self.block.source, self.block.bias
        y = OPS.shift_pointwise(x, shift, source, self.block.weight, bias, *SAME, True)
        y = OPS.shift_pointwise_packed(x, shift, source, self.packed, 5, bias, *SAME, True, y)
        y = OPS.shift_pointwise_int16(y, self.last, None, self.integers, self.scale, None, *SAME, False)
        z: Tensor = OPS.active_shift(y, self.last, None, *SAME)
        return z


@compiles
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_inductor_and_aotinductor_keep_the_ops(tmp_path: Path) -> None:
    model, x = _Fused().eval(), _image()
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(torch.compile(model, fullgraph=True)(x), expected)
        program = torch.export.export(model, (x,))
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(tmp_path / "model.pt2"),
            inductor_configs={"aot_inductor.compile_wrapper_opt_level": "O0"},
        )
        assert torch.equal(torch._inductor.aoti_load_package(package)(x), expected)


def test_export_keeps_the_fused_ops_at_any_batch() -> None:
    model, x = _Fused().eval(), _image()
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
        targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
        names = ("shift_pointwise", "shift_pointwise_packed", "shift_pointwise_int16", "active_shift")
        assert targets >= {getattr(OPS, name).default for name in names}
        more = torch.cat([x, x[:1]])
        assert torch.equal(program.module()(more), model(more))
