"""All taps of every channel as rows are the original convolution: the one test that everything rests on."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.fit.rows import Block, all_taps
from aslconvert.converter.ir.graph import aten, find_sites, graph_module
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.fuse import fuse
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.replace_sites import replace_sites

Exported = Callable[[str], tuple[nn.Module, ExportedProgram]]
LIMIT = 1e-5  # float32 sums of a few hundred numbers, in another order

SIZES = {"demosaicker": (3, 3, 30, 26), "resnet18": (1, 3, 65, 71), "unet": (3, 3, 36, 40), "odd": (3, 3, 21, 23)}


@pytest.mark.parametrize("name", list(SIZES))
def test_all_taps_as_rows_reproduce_the_original(
    exported: Exported,
    exact_blocks: Callable[[fx.GraphModule], dict[str, Block]],
    difference: Callable[[Tensor, Tensor], float],
    name: str,
) -> None:
    model, program = exported(name)
    gm = graph_module(program)
    converted = replace_sites(gm, exact_blocks(gm))
    folded = fold_batch_norm(converted)
    x = torch.randn(SIZES[name], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x)
        assert difference(gm(x), expected) <= LIMIT
        for form in (converted, folded, lower(converted), lower(folded), fuse(folded)):
            assert difference(form(x), expected) <= LIMIT


def _one_conv(
    weight: Tensor, bias: Tensor | None, arguments: tuple[object, ...], shape: tuple[int, ...]
) -> fx.GraphModule:
    root, graph = nn.Module(), fx.Graph()
    root.register_module("conv", nn.Module())
    root.conv.weight = nn.Parameter(weight)
    root.conv.bias = None if bias is None else nn.Parameter(bias)
    x = graph.placeholder("x")
    parameters = [graph.get_attr("conv.weight"), None if bias is None else graph.get_attr("conv.bias")]
    conv = graph.call_function(aten.conv2d.default, (x, *parameters, *arguments))
    graph.output(conv)
    gm = fx.GraphModule(root, graph)
    x.meta["shape"], conv.meta["dtype"] = shape, weight.dtype
    conv.meta["shape"] = tuple(gm(torch.zeros(shape, dtype=weight.dtype)).shape)
    return gm


side = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))


@settings(max_examples=30, deadline=None)
@given(side, side, st.booleans(), st.integers(13, 16), st.integers(13, 16))
def test_one_convolution_of_any_geometry_is_reproduced(
    rows: tuple[int, int, int, int], columns: tuple[int, int, int, int], has_bias: bool, height: int, width: int
) -> None:
    kernel, stride, dilation, padding = ([a, b] for a, b in zip(rows, columns, strict=True))
    if kernel == [1, 1]:
        return
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 2, *kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64) if has_bias else None
    gm = _one_conv(weight, bias, (stride, padding, dilation), (2, 2, height, width))
    (site,), refusals = find_sites(gm)
    assert not refusals
    converted = replace_sites(gm, {site.name: all_taps(site.geometry, weight, bias)})
    x = torch.randn(2, 2, height, width, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for form in (converted, lower(converted)):
            torch.testing.assert_close(form(x), gm(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_number_types_keep_theirs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 3, 3, 3, dtype=dtype), torch.randn(4, dtype=dtype)
    gm = _one_conv(weight, bias, ([1, 1], [1, 1]), (2, 3, 9, 9))
    (site,), _ = find_sites(gm)
    converted = replace_sites(gm, {site.name: all_taps(site.geometry, weight, bias)})
    x = torch.randn(2, 3, 9, 9, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 0.1
    with torch.no_grad():
        for form in (converted, lower(converted), fuse(converted)):
            assert form(x).dtype == dtype
            torch.testing.assert_close(form(x), gm(x), rtol=tolerance, atol=tolerance)
