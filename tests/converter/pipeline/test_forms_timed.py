"""Which forms of a variant are timed, and which of them its accuracy is measured on."""

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

from aslconvert.converter.cost.latency import Latency, summarise
from aslconvert.converter.cost.runtimes import ONNX_RUNTIMES
from aslconvert.converter.ir.graph import find_sites, graph_module
from aslconvert.converter.ir.load import export_model, load_program
from aslconvert.converter.passes.replace_sites import replace_sites
from aslconvert.converter.pipeline.timing import INT16, Timer, scored_form
from aslconvert.converter.search.candidates import stand_in
from aslconvert.kernels import has_int16


def latency(milliseconds: float) -> Latency:
    return summarise([milliseconds] * 3)


@pytest.mark.parametrize("wanted", [True, False])
def test_16_bits_are_timed_where_there_is_a_kernel_and_nobody_minds(wanted: bool, workshop: Path) -> None:
    gm = graph_module(load_program(str(workshop / "net.pt2")))
    converted = replace_sites(gm, {site.name: stand_in(site, 16) for site in find_sites(gm)[0]})
    timer = Timer((torch.randn(1, 3, 48, 48),), threads=1, seed=0, int16=wanted)
    try:
        timer.add_variant("x", converted)
        assert (INT16 in timer.measure(rounds=3)["x"]) == (wanted and has_int16())
    finally:
        timer.close()


def test_the_fastest_form_is_scored(workshop: Path) -> None:
    gm = graph_module(load_program(str(workshop / "net.pt2")))
    converted = replace_sites(gm, {site.name: stand_in(site, 16) for site in find_sites(gm)[0]})
    x = torch.randn(1, 3, 48, 48)
    assert scored_form(converted, {"torch": latency(1.0), INT16: latency(1.1)}) == ("float32", converted)
    precision, form = scored_form(converted, {"torch": latency(1.0), INT16: latency(0.9)})
    assert precision == "int16"
    with torch.no_grad():
        assert (torch.equal(form(x), converted(x))) is not has_int16()
        torch.testing.assert_close(form(x), converted(x), rtol=1e-2, atol=1e-2)


def test_collections_leave_out_what_was_there_before_as_long_as_is_timed(workshop: Path) -> None:
    gm = graph_module(load_program(str(workshop / "net.pt2")))
    timer = Timer((torch.randn(1, 3, 48, 48),), threads=1, seed=0)
    gc.unfreeze()
    try:
        timer.add_original(gm, compiled=False)
        assert gc.get_freeze_count() > 0
        timer.close()
        assert gc.get_freeze_count() == 0
    finally:
        timer.close()
        gc.freeze()


def test_a_stand_in_that_cannot_be_lowered_is_told() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(self.conv(x))

    x = torch.randn(1, 3, 8, 8)
    gm = graph_module(export_model(Rare().eval(), (x,)))
    timer = Timer((x,), threads=1, seed=0, int16=False)
    try:
        assert set(timer.quick(gm, rounds=3, lowered=ONNX_RUNTIMES)) == {"torch", "torch_channels_last"}
        (told,) = timer.unavailable
        assert told.startswith("onnxruntime")
        assert told.endswith("of stand-ins")
    finally:
        timer.close()
