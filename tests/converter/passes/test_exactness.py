"""All taps of every channel as rows are the original convolution: the one test that everything rests on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from aslconvert.converter.fit.layerwise import apply_block, exact_block
from aslconvert.converter.fit.rows import Block, all_taps
from aslconvert.converter.ir.graph import aten, find_sites, graph_module
from aslconvert.converter.passes.fast import fast_form
from aslconvert.converter.passes.fold_batch_norm import fold_batch_norm
from aslconvert.converter.passes.fuse import fuse
from aslconvert.converter.passes.lower import lower
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.search.candidates import stand_in

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
        for form in (converted, folded, lower(converted), lower(folded), fast_form(folded)):
            assert difference(form(x), expected) <= LIMIT


def _one_conv(
    weight: Tensor,
    bias: Tensor | None,
    arguments: tuple[object, ...],
    shape: tuple[int, ...],
    transposed: Any = None,
) -> fx.GraphModule:
    root, graph = nn.Module(), fx.Graph()
    root.register_module("conv", nn.Module())
    root.conv.weight = nn.Parameter(weight)
    root.conv.bias = None if bias is None else nn.Parameter(bias)
    x = graph.placeholder("x")
    parameters = [graph.get_attr("conv.weight"), None if bias is None else graph.get_attr("conv.bias")]
    overload = "padding" if isinstance(arguments[1], str) else "default"
    convolve = transposed or getattr(getattr(aten, f"conv{weight.dim() - 2}d"), overload)
    conv = graph.call_function(convolve, (x, *parameters, *arguments))
    graph.output(conv)
    gm = fx.GraphModule(root, graph)
    x.meta["shape"], conv.meta["dtype"] = shape, weight.dtype
    conv.meta["shape"] = tuple(gm(torch.zeros(shape, dtype=weight.dtype)).shape)
    return gm


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[fx.GraphModule, tuple[int, ...]]:
    """A graph of one convolution and its input's shape: 1 to 3 axes, dense, grouped, depthwise or transposed."""
    axes = draw(st.integers(1, 3))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))

    kernel, dilation = each(1, 5 if axes < 3 else 3), each(1, 3 if axes < 3 else 2)
    assume(max(kernel) > 1)
    groups, inner, outer = draw(st.sampled_from([1, 2, 3, 5])), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    padding = draw(st.sampled_from(["same", "valid"]) | st.just(each(0, 4)))
    stride = [1] * axes if padding == "same" else each(1, 3)
    size = each(13, 16) if axes < 3 else each(6, 8)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    weight = torch.randn(groups * outer, inner, *kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(groups * outer, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None
    shape = (2, groups * inner, *size)
    if isinstance(padding, str) or not draw(st.booleans()):
        return _one_conv(weight, bias, (stride, padding, dilation, groups), shape), shape
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    reach = [s * 5 + d * (k - 1) for s, d, k in zip(stride, dilation, kernel, strict=True)]
    padding = [min(p, r // 2) for p, r in zip(padding, reach, strict=True)]
    weight = torch.randn(groups * inner, outer, *kernel, generator=generator, dtype=torch.float64)
    target = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)[axes - 1]
    gm = _one_conv(weight, bias, (stride, padding, extra, groups, dilation), shape, target)
    assume(not find_sites(gm)[1])
    return gm, shape


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_one_convolution_of_any_kind_and_geometry_is_reproduced(made: tuple[fx.GraphModule, tuple[int, ...]]) -> None:
    gm, shape = made
    (site,), refusals = find_sites(gm)
    assert not refusals
    block = exact_block(gm, site)
    assert block.rows == site.exact_rows
    assert block.groups == site.row_groups
    converted = replace_sites(gm, {site.name: block})
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        for form in (converted, lower(converted), fuse(converted), fast_form(converted)):
            torch.testing.assert_close(form(x), gm(x), rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.integers(1, 3), st.integers(0, 99))
def test_few_rows_between_pixels_are_the_same_in_every_form(
    made: tuple[fx.GraphModule, tuple[int, ...]], each: int, seed: int
) -> None:
    gm, shape = made
    (site,), _ = find_sites(gm)
    block = stand_in(site, each * site.in_channels, seed=seed)
    bias = torch.randn(site.block_outputs, dtype=torch.float64)
    block = replace(block, weight=block.weight.double(), shift=block.shift.double(), bias=bias)
    converted = replace_sites(gm, {site.name: block})
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = apply_block(block, site, x)
        for form in (converted, lower(converted), fast_form(converted)):
            torch.testing.assert_close(form(x), expected, rtol=1e-12, atol=1e-12)


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
